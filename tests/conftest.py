"""Shared fixtures; shapes in signatures are checked at run time in every test."""

import copy
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

install_import_hook("ddpm", "typechecking.check")

# Before torch: it pins the arithmetic.
import ddpm  # noqa: E402, F401, I001

import torch  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

from benchmarks.small import SIZES  # noqa: E402
from ddpm.params import Params  # noqa: E402
from ddpm.schedules import SCHEDULES, Schedule, make_schedule  # noqa: E402

ROOT = Path(__file__).parents[1]

# Every size as small as it can be while every stage still does all that it does.
SMALL = SIZES


def shipped() -> dict[str, Any]:
    """The committed params.yaml as plain values."""
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def changed(values: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Set dotted parameters, such as `**{"train.lr": 1}`; None removes one."""
    for name, value in changes.items():
        *sections, last = name.split(".")
        target = values
        for section in sections:
            target = target[section]
        if value is None:
            del target[last]
        else:
            target[last] = copy.deepcopy(value)
    return values


def write_params(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    return path


def shipped_schedule(name: str, T: int = 1000) -> Schedule:
    return make_schedule(name, SCHEDULES[name].model_validate(shipped()["schedules"][name]), T)


@pytest.fixture
def small() -> dict[str, Any]:
    """The shipped parameters at small sizes."""
    return changed(shipped(), **SMALL)


@pytest.fixture
def params(small: dict[str, Any]) -> Params:
    return Params.model_validate(small)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
