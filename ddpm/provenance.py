"""What dvc.lock will say that a stage used, so that it never says what was not.

DVC reads the parameters and hashes the dependencies after the command has ended: what was edited
meanwhile would be recorded as if it had been used. A stage therefore notes both at its start, and
looks again just before its outputs take their places.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from ddpm.errors import UserError
from ddpm.files import sha256
from ddpm.params import PARAMS_FILE, load

_PIPELINE = Path("dvc.yaml")


class Declared(NamedTuple):
    """What dvc.yaml lists for a stage: files it reads, parameters it tracks, files it writes."""

    deps: list[str]
    params: list[str]
    outs: list[Path]


def declared(stage: str) -> Declared:
    """The stage in dvc.yaml; nothing where there is none, as there is then no lock either."""
    if not _PIPELINE.exists():
        return Declared([], [], [])
    stages = YAML(typ="safe", pure=True).load(_PIPELINE.read_text(encoding="utf-8"))["stages"]
    entry = stages.get(stage, {})
    outs = [out for kind in ("outs", "metrics", "plots") for out in _names(entry.get(kind, []))]
    return Declared(
        _names(entry.get("deps", [])), _names(entry.get("params", [])), [Path(out) for out in outs]
    )


def _names(items: list[Any]) -> list[str]:
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def used_by(stage: str, code: Mapping[str, str]) -> dict[str, object]:
    """The values of the parameters that a stage tracks and the hashes of the files it depends on.

    Args:
        stage: Its name in dvc.yaml.
        code: Hashes of modules, by path, to take instead of those of the present files: as they
            were when they were imported.

    Raises:
        UserError: If the parameters are not allowed.
    """
    deps, params, _ = declared(stage)
    used: dict[str, object] = {}
    if params:
        values = load().model_dump()
        for entry in params:
            name = re.sub(r"\$\{(.*?)\}", lambda found: str(_value(values, found[1])), entry)
            used[name] = values if entry == str(PARAMS_FILE) else _value(values, name)
    for path in deps:
        used[path] = code.get(path) or _hash(Path(path), stage)
    return used


def _value(values: Any, name: str) -> object:  # noqa: ANN401 - a tree of mappings
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _hash(path: Path, stage: str) -> str | None:
    return sha256(path, stage=stage) if path.exists() else None


def refuse_change(stage: str, before: Mapping[str, object]) -> None:
    """Refuse to go on if what a stage uses is no longer what it was.

    Args:
        stage: Its name in dvc.yaml.
        before: See `used_by`.

    Raises:
        UserError: If a parameter or a file has changed.
    """
    try:
        now = used_by(stage, {})
    except UserError as error:
        raise UserError(_refusal(str(PARAMS_FILE), stage) + f" ({error})") from None
    different = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if different:
        raise UserError(_refusal(different[0], stage))


def _refusal(name: str, stage: str) -> str:
    return (
        f"{name} was changed while stage {stage} ran, so its results would be recorded as of what"
        f" they are not; they were dropped: run again with `dvc repro`"
    )
