"""Shared fixtures; shapes in signatures are checked at run time in every test."""

import importlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

# Before NumPy and torch: it pins the arithmetic.
import stages  # noqa: F401

install_import_hook("ddpm", "typechecking.check")

import torch  # noqa: E402
import yaml  # noqa: E402
from filelock import FileLock  # noqa: E402
from typechecking import unchecked  # noqa: E402

from benchmarks.copies import SIZES, changed  # noqa: E402
from ddpm.core.params import Params  # noqa: E402
from ddpm.diffusion.schedule import Schedule  # noqa: E402
from ddpm.diffusion.schedules import SCHEDULES, make_schedule  # noqa: E402
from ddpm.networks.mlp import ResidualMLP, ResidualMLPSettings  # noqa: E402
from ddpm.sampling.registry import SAMPLERS  # noqa: E402
from ddpm.sampling.sampler import Sampler  # noqa: E402
from stages import diffuse  # noqa: E402
from stages.common.lineage import read_pipeline  # noqa: E402
from stages.common.outputs import completing  # noqa: E402
from stages.common.yaml_loader import load_yaml  # noqa: E402

ROOT = Path(__file__).parents[1]
# For what is promised there alone: the same bits, and a limit on the size of files.
X86_64_LINUX = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="holds on x86-64 Linux only"
)
# Drawing 60 frames takes a third of the time of all stages at small sizes.
diffuse._FRAMES = 8
# Files whose tests take longest come first, so that no worker is left with one of them at the end.
SLOWEST = (
    *("test_dvc_end_to_end", "test_dvc_experiments", "test_dvc_queue", "test_dvc_repository"),
    *("test_guidance_pipeline", "test_pipeline"),
)


# Files with many thousand calls. test_pipeline.py runs every stage with its shapes checked.
UNCHECKED = {
    *(
        "test_attribution",
        "test_denoising",
        "test_distances",
        "test_distribution",
        "test_estimates",
    ),
    *("test_likelihood", "test_loop", "test_mistakes", "test_model_likelihood", "test_multistep"),
    *("test_one_step", "test_plots", "test_sampler_registry", "test_training"),
    *("test_guidance_pipeline", "test_labelled_distribution", "test_study_guidance", "test_tilted"),
}


@pytest.fixture(autouse=True, scope="module")
def _shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    with unchecked() if request.path.stem in UNCHECKED else nullcontext():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


def shipped() -> dict[str, Any]:
    """The committed params.yaml as plain values."""
    values = load_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def write_params(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def shipped_schedule(name: str, T: int = 1000) -> Schedule:
    return make_schedule(SCHEDULES[name].model_validate(shipped()["schedules"][name]), T)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(stage: str, folder: Path) -> None:
    """Run a stage in this process, as `stages.common.run` does but for locks and lineage."""
    with inside(folder), completing():
        importlib.import_module(f"stages.{stage}").main()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run, at small sizes; to be copied, not to be changed.

    The first worker of pytest-xdist that needs it makes it for all.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / "finished", shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.exists():
            folder.mkdir()
            write_params(folder, changed(shipped(), **SIZES))
            with inside(ROOT):
                names = read_pipeline()
            with unchecked():
                for stage in names:
                    run(stage, folder)
            done.touch()
    return folder


@pytest.fixture
def small() -> dict[str, Any]:
    """The shipped parameters at small sizes."""
    return changed(shipped(), **SIZES)


@pytest.fixture
def params(small: dict[str, Any]) -> Params:
    return Params.model_validate(small)


@pytest.fixture
def network(params: Params) -> ResidualMLP:
    """A small network with its initial weights, for the schedule of `params`."""
    settings = ResidualMLPSettings.model_validate(params.networks["mlp"])
    network = settings.build(params.diffusion.T)
    network.initialise(generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def samplers() -> Mapping[str, Sampler]:
    settings = shipped()["samplers"]
    return {name: kind.model_validate(settings[name]) for name, kind in SAMPLERS.items()}
