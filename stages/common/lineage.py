"""What a stage used, so that dvc.lock never records anything else.

DVC reads parameters and dependencies after the command has ended, and would record what was edited
meanwhile as if it had been used. So a stage compares them at its end with those at its start.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.core.errors import UserError
from ddpm.core.files import sha256
from ddpm.core.params import TrainingParams
from ddpm.core.settings import PARAMS_FILE
from stages import CODE, source_files
from stages.common.params import load_params
from stages.common.yaml_loader import load_yaml


@dataclass(frozen=True)
class Declaration:
    """What dvc.yaml lists for a stage; there may be placeholders, as in `schedules.${schedule}`."""

    stage: str
    deps: list[str]
    params: list[str]
    outs: list[Path]

    def snapshot(self, *, imported: bool = False) -> dict[str, object]:
        """Values of the parameters, and hashes of the files in the dependencies.

        Args:
            imported: Take source files as they were when they were imported, not as they are now.
        """
        used: dict[str, object] = {}
        values = load_params(kind=TrainingParams).model_dump() if self.params else {}

        def resolved(entry: str) -> str:
            return re.sub(r"\$\{(.*?)\}", lambda match: str(_value(values, match[1])), entry)

        for name in map(resolved, self.params):
            used[name] = values if name == PARAMS_FILE else _value(values, name)
        for dep in (Path(resolved(entry)) for entry in self.deps):
            for path in source_files(dep) if dep.is_dir() else [dep]:
                code = CODE.get(path.resolve()) if imported else None
                used[path.as_posix()] = code or (sha256(path) if path.exists() else None)
        return used

    def refuse_change(self, before: Mapping[str, object]) -> None:
        """Raise a `UserError` if a parameter or file has changed since an earlier snapshot."""
        now = self.snapshot()
        changed = sorted(x for x in {*before, *now} if before.get(x) != now.get(x))
        if changed:
            raise UserError(
                f"{changed[0]} was changed while stage {self.stage} ran, so DVC would record"
                " results that do not belong to it; they were dropped: run `dvc repro` again"
            )


def read_pipeline() -> dict[str, Declaration]:
    """All stages of dvc.yaml, in its order; none if there is no such file."""
    path = Path("dvc.yaml")
    stages = load_yaml(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}
    return {
        stage: Declaration(
            stage,
            _names(entry, "deps"),
            _names(entry, "params"),
            [Path(out) for kind in ("outs", "metrics", "plots") for out in _names(entry, kind)],
        )
        for stage, entry in stages.items()
    }


def _names(entry: Mapping[str, Any], kind: str) -> list[str]:
    """Entries of a list in dvc.yaml, with or without options."""
    return [item if isinstance(item, str) else next(iter(item)) for item in entry.get(kind, [])]


def _value(values: Any, name: str) -> object:  # noqa: ANN401 - a tree of mappings
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
