"""Unfinished work on disk: after a crash it goes on where it was, and ends with the same bits.

A checkpoint is one safetensors file, named after a hash of all that determines the result: one of
other parameters, other code or other data has another name. What it holds is hashed as well, so
that a damaged one is never taken up.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ddpm.errors import UserError
from ddpm.files import reading, replacing, sweep

# Of those that nobody took up again, the newest are kept.
_KEPT = 8


@dataclass(frozen=True)
class Checkpoint:
    """Where the unfinished work of one stage is kept.

    Attributes:
        folder: For all checkpoints; git and DVC ignore it.
        stage: Whose work it is.
        key: A hash of all that determines the result, in hexadecimal.
    """

    folder: Path
    stage: str
    key: str

    @classmethod
    def of(cls, folder: Path, stage: str, determined_by: Mapping[str, Any]) -> "Checkpoint":
        """The checkpoint of work that is determined by these values (as JSON)."""
        text = json.dumps(determined_by, sort_keys=True)
        return cls(folder, stage, hashlib.sha256(text.encode()).hexdigest())

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.stage}-{self.key[:16]}.safetensors"

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep the tensors and the progress (as JSON) in place of what was kept before.

        Raises:
            UserError: If the disk refuses; what was kept before is then untouched.
        """
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        text = json.dumps(progress)
        metadata = {"key": self.key, "progress": text, "sha256": _digest(tensors, text)}
        sweep(self.path)
        with replacing(self.path, at_once=True) as temporary:
            temporary.write_bytes(save(tensors, metadata=metadata))
        others = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in others[:-_KEPT]:
            path.unlink(missing_ok=True)

    def load(self, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept, if it is whole and of the same work; a line says why if it is not.

        Args:
            like: Tensors of the names, shapes and types that are expected.
        """
        if not self.path.exists():
            return None
        try:
            with reading(self.path, self.stage):
                return self._load(like)
        except UserError as error:
            reason = str(error).rpartition(";")[0]
            print(f"note: {reason}; {self.stage} starts from the beginning")
            return None

    def _load(self, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata["key"] != self.key:
                raise ValueError("it is of other parameters, code or data")
            tensors = {name: file.get_tensor(name) for name in sorted(like)}
        if metadata["sha256"] != _digest(tensors, metadata["progress"]):
            raise ValueError("it is damaged")
        for name, tensor in tensors.items():
            if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
                raise ValueError(f"{name} has another shape or type")
        return tensors, json.loads(metadata["progress"])

    def remove(self) -> None:
        """Forget what was kept: the work is done."""
        self.path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
