"""The pipeline in pipelines/points, for a file of points, over the code at the root."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, X86_64_LINUX, run, write_params
from dvc_project import Project
from test_guidance_pipeline import small as small_guidance
from test_pipeline import dependency_of, files_in, is_code, modules_of, paths

from benchmarks.copies import SIZES, changed
from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams, TrainingParams
from ddpm.networks.model_file import load_model
from ddpm.reference.model_under_test import load_model_under_test
from stages.common.files import write_text
from stages.common.outputs import completing
from stages.common.params import load_params
from stages.common.paths import MODEL
from stages.common.yaml_loader import load_yaml

FOLDER = ROOT / "pipelines" / "points"
STAGES: dict[str, Any] = load_yaml((FOLDER / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SMALL: dict[str, Any] = {
    **{name: SIZES[name] for name in SIZES if name.startswith(("networks", "loss", "train"))},
    "device": "cpu",
    "data.n_train": 300,
    "data.n_test": 100,
    "diffusion.T": 50,
    "sample.n": 120,
    "sample.steps": 5,
    "sample.block": 50,
    "measure_points.n": 80,
    "measure_points.n_likelihood": 40,
    "measure_points.null_pairs": 3,
    "measure_points.directions": 8,
    "measure_points.tolerance": 0.01,
    "measure_points.density_grid": 12,
}


def small(**changes: object) -> dict[str, Any]:
    values = load_yaml((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    return changed(values, **(SMALL | changes))


def with_points(folder: Path, *, labels: bool = True, n: int = 450) -> Path:
    """Write points of two Gaussians, with the label of each or without."""
    random = np.random.default_rng(0)
    kinds = random.integers(2, size=n)
    points = random.normal(0, 0.1, (n, 2)) + 2 * kinds[:, None]
    rows = [
        f"{x:.4f},{y:.4f}" + f",{'ab'[k]}" * labels for (x, y), k in zip(points, kinds, strict=True)
    ]
    path = folder / "points.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def outputs(stage: str) -> list[str]:
    kinds = (STAGES[stage].get(kind, []) for kind in ("outs", "metrics", "plots"))
    return [path for kind in kinds for path in paths(kind)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_folders_it_imports(stage: str) -> None:
    entry = STAGES[stage]
    assert entry["cmd"] == f"PYTHONPATH=../.. python -m stages.{stage}"
    modules = modules_of(ROOT / "stages" / f"{stage}.py", set())
    needed = {dependency_of(module) for module in modules} - {"ddpm/studies"}
    code = [path.removeprefix("../../") for path in entry["deps"]]
    assert sorted(path for path in code if is_code(path)) == sorted(needed)
    assert "../../requirements.txt" in entry["deps"]
    assert stage == "check_points" or "data/params.ok" in entry["deps"]
    reads_file = stage in {"check_points", "generate_points", "train"}
    assert ("${datasets.file.path}" in entry["deps"]) == reads_file


@pytest.mark.parametrize("labels", [True, False])
def test_every_stage_writes_what_it_declares_and_repeats_its_bits(
    labels: bool, tmp_path: Path
) -> None:
    with_points(tmp_path, labels=labels)
    write_params(tmp_path, small(**{"sample.scale": 1.5}))
    before = set(files_in(tmp_path))
    for stage in STAGES:
        run(stage, tmp_path)
        new = {path for path in files_in(tmp_path) if not path.startswith("checkpoints")}
        assert sorted(new - before) == sorted(outputs(stage)), stage
        before = new
    written = files_in(tmp_path)
    for stage in ("generate_points", "sample_points", "measure_points"):
        run(stage, tmp_path)
    assert files_in(tmp_path) == written
    metrics = json.loads((tmp_path / "reports/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["likelihood"]) == {"nll", "nll_train", "gap"}
    assert set(metrics.get("classes", {})) == ({"a", "b"} if labels else set())
    train, test, samples = (
        np.load(tmp_path / f"data/{name}.npy") for name in ("train", "test", "samples")
    )
    assert (len(train), len(test), len(samples)) == (300, 100, 120)
    # No point is in both sets, and the points are those of the file.
    table = np.loadtxt(tmp_path / "points.csv", delimiter=",", usecols=(0, 1), dtype=np.float32)
    chosen = {tuple(point) for point in np.concatenate([train, test]).tolist()}
    assert len(chosen) == 400
    assert chosen < {tuple(point) for point in table.tolist()}
    for name, points in (("train", train), ("samples", samples)):
        kinds = np.load(tmp_path / f"data/{name}_labels.npy")
        assert len(kinds) == len(points)
        assert set(kinds.tolist()) == ({0, 1} if labels else {0})
    model = load_model(tmp_path / MODEL)
    assert model.source.classes == (("a", "b") if labels else ())
    with pytest.raises(UserError, match=r"trained on points of points\.csv, whose distribution"):
        load_model_under_test(tmp_path / MODEL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "spiral"}, "datasets.spiral is missing"),
        (
            {"dataset": "moons", "datasets.moons": {"noise": 0.1}},
            "dataset is moons but here it should be file; for moons, .* the pipeline at the root",
        ),
        ({"datasets.file.path": "none.csv"}, "none.csv is missing; correct it, or change dataset"),
        (
            {"data.n_train": 400, "data.n_test": 100},
            r"has 450 points but data.n_train is 400 and .* to 360 and 90 for example",
        ),
        ({"prediction": "x0"}, "prediction is x0 but likelihoods are computed at t = 0"),
        ({"sample.steps": 60}, "sample.steps is 60 but the schedule has T = 50"),
        ({"sample.spacing": "optimised_model"}, "sample.spacing is 'optimised_model' but should"),
        ({"sample.scale": float("nan")}, "sample.scale is nan but should be a finite number"),
        ({"sampler": "euler"}, "sampler is 'euler' but should be one of"),
    ],
)
def test_invalid_input_gets_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with_points(tmp_path)
    write_params(tmp_path, small(**changes))
    with pytest.raises(UserError, match=message) as refused:
        run("check_points", tmp_path)
    assert "\n" not in str(refused.value)


def test_other_pipelines_name_this_one_for_a_file(tmp_path: Path) -> None:
    path = write_params(tmp_path, small())
    assert isinstance(load_params(path, kind=TrainingParams), PointsParams)
    root = load_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    file = {"dataset": "file", "datasets.file": {"path": "points.csv"}}
    for stage, values in (
        ("check", changed(root, **file)),
        ("check_guidance", small_guidance(**file)),
    ):
        write_params(tmp_path, values)
        with pytest.raises(UserError, match=r"dataset is file but .* use pipelines/points for a"):
            run(stage, tmp_path)


@X86_64_LINUX
def test_dvc_runs_it_for_another_file_and_again_after_an_edit(tmp_path: Path) -> None:
    root = Project.small(tmp_path)
    folder = tmp_path / "pipelines" / "points"
    write_params(folder, small())
    (folder / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(folder / "reports", ignore_errors=True)
    root.commit("Small sizes")
    project = Project(folder)
    project.dvc("repro")
    root.commit("Run the pipeline")
    assert "Data and pipelines are up to date." in project.dvc("repro")
    mine = with_points(folder).rename(folder / "mine.csv")
    output = project.dvc("exp", "run", "-S", "datasets.file.path=mine.csv")
    assert all(f"python -m stages.{stage}\n" in output for stage in STAGES)
    assert "points.csv" not in (folder / "dvc.lock").read_text(encoding="utf-8")
    with completing():
        write_text(mine, "\n".join(mine.read_text(encoding="utf-8").splitlines()[1:]))
    output = project.dvc("repro")
    assert all(f"python -m stages.{stage}\n" in output for stage in STAGES)
    failed = project.dvc("exp", "run", "-S", "datasets.file.path=none.csv", fails=True)
    assert "none.csv" in failed
    assert (folder / "reports" / "metrics.json").exists()
