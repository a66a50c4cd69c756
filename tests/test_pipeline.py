"""dvc.yaml compared with what the stages really import, read, use and write."""

import hashlib
import importlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, inside, run, shipped, write_params
from test_structure import imported

from benchmarks.copies import SIZES, changed
from ddpm.core.params import Params
from ddpm.core.settings import Settings
from ddpm.data.scaling import Scaling
from ddpm.reference.model_under_test import load_model_under_test
from stages.common.params import load_params
from stages.common.paths import MODEL
from stages.common.yaml_loader import load_yaml

PIPELINE = load_yaml((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = PIPELINE["stages"]
# The marker that parameters are valid is never read: its existence orders the stages.
UNREAD = {"data/params.ok", "requirements.txt"}


def paths(items: list[str | dict[str, Any]]) -> list[str]:
    """Entries of a list in dvc.yaml, with or without options."""
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def outputs(stage: str) -> list[str]:
    return [
        path for kind in ("outs", "metrics", "plots") for path in paths(STAGES[stage].get(kind, []))
    ]


def is_code(dependency: str) -> bool:
    return dependency.startswith(("ddpm/", "stages/"))


def data_dependencies(stage: str) -> list[str]:
    return [path for path in STAGES[stage]["deps"] if not is_code(path)]


def modules_of(path: Path, modules: set[Path]) -> set[Path]:
    """The project's files that running `path` executes, but for the lazy `ddpm/__init__.py`."""
    if path in modules or not path.exists() or path == ROOT / "ddpm" / "__init__.py":
        return modules
    modules.add(path)
    modules_of(path.parent / "__init__.py", modules)
    for name in imported(path):
        if name.split(".")[0] in {"ddpm", "stages"}:
            modules_of(ROOT.joinpath(*name.split(".")).with_suffix(".py"), modules)
    return modules


def dependency_of(module: Path) -> str:
    """How dvc.yaml lists a module: by its folder, or as a file if the folder has much else."""
    name = module.relative_to(ROOT)
    if name.parent == Path("stages") or (
        name.parent == Path("ddpm/studies") and name.stem != "__init__"
    ):
        return name.as_posix()
    return name.parent.as_posix()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_folders_it_imports(stage: str) -> None:
    modules = modules_of(ROOT / "stages" / f"{stage}.py", set())
    needed = {dependency_of(module) for module in modules} - {"ddpm/studies"}
    listed = [path for path in STAGES[stage]["deps"] if is_code(path)]
    assert sorted(listed) == sorted(needed), "dvc.yaml should list:\n" + "\n".join(
        f"      - {path}" for path in sorted(needed)
    )


@pytest.mark.parametrize(
    "edited",
    [
        *("ddpm/plots/samples.py", "ddpm/reference/distances.py", "ddpm/studies/attribution.py"),
        *("ddpm/flow/ode.py", "ddpm/sampling/one_step.py", "ddpm/__init__.py"),
    ],
)
def test_an_edit_that_cannot_affect_training_does_not_retrain(edited: str) -> None:
    assert (ROOT / edited).exists()
    for dependency in STAGES["train"]["deps"]:
        assert not f"{edited}/".startswith(f"{dependency}/")


def test_every_stage_computes_with_the_pinned_packages_after_the_check() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert "requirements.txt" in stage["deps"]
        assert name == "check" or "data/params.ok" in stage["deps"]


def test_every_stage_has_an_output_in_the_cache_and_keeps_its_run_cache() -> None:
    for name, stage in STAGES.items():
        assert stage["outs"], name
        assert all(isinstance(out, str) for out in stage["outs"]), f"{name}: outs are in the cache"
        for kind in ("metrics", "plots"):
            for item in stage.get(kind, []):
                assert next(iter(item.values()))["cache"] is False
    assert not any(path.endswith("/") for stage in STAGES for path in outputs(stage))


def test_what_is_in_git_and_what_is_not() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", *(path for stage in STAGES for path in outputs(stage))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert ignored == [path for stage in STAGES for path in STAGES[stage]["outs"]]


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_dependencies(stage: str, finished: Path, folder: Path) -> Path:
    """Fill a folder with the parameters and with what the stage declares that it reads."""
    for path in ("params.yaml", *data_dependencies(stage)):
        if path not in UNREAD:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(finished / path, folder / path)
    return folder


CHOSEN = {"datasets": "spiral", "schedules": "linear", "networks": "mlp"}
# Parameters that are plain values, or mappings of sections that the rooms validate.
UNTYPED = {
    name
    for name, field in Params.model_fields.items()
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, Settings))
}
SAMPLER_OF = {"sample": "ddpm", "attribute_error": "ddpm", "optimise_spacings": "unipc"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_and_writes_what_it_declares_repeats_its_bits_and_tracks_its_parameters(
    stage: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(with_dependencies(stage, finished, tmp_path))
    with inside(tmp_path):
        loaded = load_params()
    # Only what the stage looks at counts, not what loading does, nor what a model file holds.
    fields = Params.model_fields
    sections = {id(getattr(loaded, name)): name for name in fields if name not in UNTYPED}
    used: set[str] = set()
    plain = Settings.__getattribute__

    def watched(self: Settings, name: str) -> object:
        if self is loaded and name in fields and name in UNTYPED:
            chosen = CHOSEN | {"samplers": SAMPLER_OF.get(stage)}
            used.add(f"{name}.{chosen[name]}" if chosen.get(name) else name)
        elif id(self) in sections and name in type(self).model_fields:
            used.add(f"{sections[id(self)]}.{name}")
        return plain(self, name)

    module = importlib.import_module(f"stages.{stage}")
    if hasattr(module, "load_params"):
        monkeypatch.setattr(module, "load_params", lambda **_: loaded)
    monkeypatch.setattr(Settings, "__getattribute__", watched)
    run(stage, tmp_path)
    monkeypatch.undo()

    written = {path: sha for path, sha in files_in(tmp_path).items() if path not in before}
    assert sorted(written) == sorted(outputs(stage))
    first = files_in(finished)
    assert written == {path: first[path] for path in written}

    tracked = STAGES[stage].get("params", [])
    if stage == "check":
        assert tracked == [{"params.yaml": None}]
        return
    names = {"dataset": "spiral", "schedule": "linear", "network": "mlp", "sampler": "ddpm"}
    for name, value in (names | {"optimise_spacings.sampler": "unipc"}).items():
        tracked = [entry.replace(f"${{{name}}}", value) for entry in tracked]
    assert tracked == sorted(tracked)
    if stage == "train":
        # Both go into the model file as a whole.
        used |= {"diffusion", "train"}
    for name in used:
        assert any(name == entry or name.startswith(f"{entry}.") for entry in tracked), name
    for entry in tracked:
        assert any(name == entry or name.startswith(f"{entry}.") for name in used), entry


READS = [
    (stage, path) for stage in STAGES for path in data_dependencies(stage) if path not in UNREAD
]


def test_the_exact_distribution_is_that_of_the_data_the_model_was_trained_on(
    finished: Path,
) -> None:
    model = load_model_under_test(finished / MODEL)
    points = torch.from_numpy(np.load(finished / "data/train.npy")).double()
    scaling = Scaling.from_points(points)
    assert model.exact.noise == 0.02 / scaling.scale
    # Its surprise at true points is its own entropy: about -0.50 nats in data units.
    surprise = -model.exact.log_density(model.fresh(4000, "x"), 0) - scaling.log_jacobian
    assert float(surprise.mean()) == pytest.approx(-0.50, abs=4 * 0.77 / 4000**0.5 + 0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {
            **{"diffusion.zero_terminal_snr": True, "sampler": "ode", "sample.steps": 1},
            **{"measure_model.tolerance": 0.01, "attribute_error.tolerance": 0.1},
        },
        {
            **{"datasets.spiral.noise": 0, "prediction": "x0", "schedule": "cosine"},
            **{"sampler": "unipc", "sample.spacing": "optimised_model", "sample.steps": 4},
            **{"samplers.ddpm.variance": "analytic", "samplers.heun.churn": 0.1},
            **{"diffusion.T": 40, "optimise_spacings.n": 10},
        },
    ],
    ids=["zero_terminal_snr", "zero_noise"],
)
def test_all_stages_run_with(changes: dict[str, object], tmp_path: Path) -> None:
    write_params(tmp_path, changed(shipped(), **(SIZES | changes)))
    for stage in STAGES:
        # The figures of one of them are enough, because drawing takes half of the time.
        if stage != "draw_figures" or "datasets.spiral.noise" in changes:
            run(stage, tmp_path)
    metrics = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert metrics["likelihood"]["t"] == (
        0 if not {"datasets.spiral.noise", "prediction"} & set(changes) else 1
    )
