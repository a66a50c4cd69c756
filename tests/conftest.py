"""Shared fixtures; shapes in signatures are checked at run time in every test."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

install_import_hook("ddpm", "typechecking.check")

# Before torch: it pins the arithmetic.
import ddpm  # noqa: E402, F401, I001

import torch  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

from benchmarks.copies import SIZES, changed  # noqa: E402
from ddpm.params import Params  # noqa: E402
from ddpm.provenance import pipeline  # noqa: E402
from ddpm.schedules import SCHEDULES, Schedule, make_schedule  # noqa: E402

ROOT = Path(__file__).parents[1]

SMALL = SIZES


def shipped() -> dict[str, Any]:
    """The committed params.yaml as plain values."""
    values = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def write_params(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
    return path


def shipped_schedule(name: str, T: int = 1000) -> Schedule:
    return make_schedule(name, SCHEDULES[name].model_validate(shipped()["schedules"][name]), T)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(stage: str, folder: Path) -> None:
    with inside(folder):
        importlib.import_module(f"stages.{stage}").main()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run, at small sizes; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_params(folder, changed(shipped(), **SMALL))
    with inside(ROOT):
        stages = pipeline()
    for stage in stages:
        run(stage, folder)
    return folder


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
