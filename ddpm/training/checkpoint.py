"""Checkpoints: unfinished training on disk, which resumes after a crash to the same bits.

The file is named by a hash of all that determines the result, so no other checkpoint is loaded.
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

from ddpm.core.errors import UserError
from ddpm.core.files import reading, replacing


@dataclass(frozen=True)
class Checkpoint:
    """The file that holds unfinished training, whether it exists or not."""

    path: Path

    @classmethod
    def of(cls, folder: Path, determined_by: Mapping[str, Any]) -> "Checkpoint":
        """Name the checkpoint of the training that these values determine (as JSON)."""
        text = json.dumps(determined_by, sort_keys=True)
        return cls(folder / f"train-{hashlib.sha256(text.encode()).hexdigest()}.safetensors")

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Store tensors and progress (as JSON) in place of an earlier checkpoint."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        content = save(tensors, metadata={"progress": json.dumps(progress)})
        with replacing(self.path) as temporary:
            temporary.write_bytes(content)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read tensors and progress; None without a file, or with a note if it cannot be used."""
        if not self.path.exists():
            return None
        try:
            with (
                reading(self.path, "training starts from the beginning"),
                safe_open(self.path, framework="pt") as file,
            ):
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["progress"])
        except UserError as error:
            print(f"note: {error}")
            return None

    def remove(self) -> None:
        """Delete the file, if it exists, once the training is done."""
        self.path.unlink(missing_ok=True)
