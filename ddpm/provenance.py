"""What dvc.lock will say that a stage used, so that it never says what was not.

DVC reads the parameters and hashes the dependencies after the command has ended: what was edited
meanwhile would be recorded as if it had been used. A stage therefore notes both at its start, and
looks again just before its outputs take their places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ddpm.errors import UserError
from ddpm.files import sha256
from ddpm.params import PARAMS_FILE, load

_PIPELINE = Path("dvc.yaml")


@dataclass(frozen=True)
class Declared:
    """What dvc.yaml lists for a stage.

    Attributes:
        stage: Its name.
        deps: Files that it reads, its code among them.
        params: Parameters that it tracks, as written there: `schedules.${schedule}`.
        outs: Files that it writes.
    """

    stage: str
    deps: list[str]
    params: list[str]
    outs: list[Path]

    def used(self, code: Mapping[str, str]) -> dict[str, object]:
        """The values of the parameters and the hashes of the files, as they are now.

        Args:
            code: Hashes of modules, by path, to take instead of those of the present files: as they
                were when they were imported.

        Raises:
            UserError: If the parameters are not allowed.
        """
        used: dict[str, object] = {}
        if self.params:
            values = load().model_dump()
            for entry in self.params:
                name = re.sub(r"\$\{(.*?)\}", lambda found: str(_value(values, found[1])), entry)
                used[name] = values if entry == str(PARAMS_FILE) else _value(values, name)
        for path in self.deps:
            present = sha256(Path(path), stage=self.stage) if Path(path).exists() else None
            used[path] = code.get(path) or present
        return used

    def refuse_change(self, before: Mapping[str, object]) -> None:
        """Refuse to go on if what the stage uses is no longer what it was.

        Args:
            before: See `used`.

        Raises:
            UserError: If a parameter or a file has changed.
        """
        try:
            now = self.used({})
        except UserError as error:
            raise UserError(_refusal(str(PARAMS_FILE), self.stage) + f" ({error})") from None
        names = before.keys() | now.keys()
        different = sorted(name for name in names if before.get(name) != now.get(name))
        if different:
            raise UserError(_refusal(different[0], self.stage))


def pipeline() -> dict[str, Declared]:
    """All stages of dvc.yaml, in its order; none where there is no such file."""
    if not _PIPELINE.exists():
        return {}
    stages = YAML(typ="safe", pure=True).load(_PIPELINE.read_text(encoding="utf-8"))["stages"]
    return {
        stage: Declared(
            stage,
            _names(entry, "deps"),
            _names(entry, "params"),
            [Path(out) for kind in ("outs", "metrics", "plots") for out in _names(entry, kind)],
        )
        for stage, entry in stages.items()
    }


def declared(stage: str) -> Declared:
    """The stage in dvc.yaml; nothing if it is not there, as there is then no lock either."""
    return pipeline().get(stage, Declared(stage, [], [], []))


def _names(entry: Mapping[str, Any], kind: str) -> list[str]:
    """Entries of a list in dvc.yaml, with or without options."""
    return [item if isinstance(item, str) else next(iter(item)) for item in entry.get(kind, [])]


def _value(values: Any, name: str) -> object:  # noqa: ANN401 - a tree of mappings
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _refusal(name: str, stage: str) -> str:
    return (
        f"{name} was changed while stage {stage} ran, so its results would be recorded as of what"
        f" they are not; they were dropped: run again with `dvc repro`"
    )
