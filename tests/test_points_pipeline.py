"""The pipeline in pipelines/points, for a file of points, over the code at the root."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, X86_64_LINUX, inside, run, write_params
from dvc_project import Project
from test_guidance_pipeline import outputs, require_folders_imported
from test_guidance_pipeline import small as small_guidance
from test_pipeline import files_in

from benchmarks.copies import SIZES, changed
from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams, TrainingParams
from ddpm.networks.model_file import load_model
from ddpm.reference.model_under_test import load_model_under_test
from ddpm.studies.held_out import Labelled, held_out_likelihood
from stages import preflight
from stages.common.files import _plain, write_text
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
    # Far from the origin, so that data units cannot be taken for model units.
    points = random.normal(0, 0.1, (n, 2)) + 2 * kinds[:, None] + (50, -30)
    rows = [
        f"{x:.4f},{y:.4f}" + f",{'ab'[k]}" * labels for (x, y), k in zip(points, kinds, strict=True)
    ]
    path = folder / "points.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


# Enough training to tell two labels apart.
LEARNING = {"train.steps": 400, "train.warmup": 20, "sample.steps": 20}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_folders_it_imports(stage: str) -> None:
    entry = STAGES[stage]
    require_folders_imported(stage, entry)
    reads_file = stage in {"check_points", "generate_points", "train"}
    assert ("${datasets.file.path}" in entry["deps"]) == reads_file


@pytest.mark.parametrize("labels", [True, False])
def test_every_stage_writes_what_it_declares_and_repeats_its_bits(
    labels: bool, tmp_path: Path
) -> None:
    with_points(tmp_path, labels=labels)
    write_params(tmp_path, small(**LEARNING, **{"sample.scale": 1.5}))
    before = set(files_in(tmp_path))
    for stage in STAGES:
        run(stage, tmp_path)
        new = {path for path in files_in(tmp_path) if not path.startswith("checkpoints")}
        assert sorted(new - before) == sorted(outputs(STAGES[stage])), stage
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
    model = load_model(tmp_path / MODEL)
    sets = {}
    for name, points in (("train", train), ("test", test), ("samples", samples)):
        kinds = np.load(tmp_path / f"data/{name}_labels.npy")
        assert len(kinds) == len(points)
        # The labels of the two Gaussians are those of their points.
        expected = (points[:, 0] > 51) if labels else np.zeros(len(points))
        assert np.mean(kinds == expected) > (0.8 if name == "samples" else 0.999)
        sets[name] = Labelled(torch.from_numpy(points).double(), torch.from_numpy(kinds))
    assert np.abs(samples.mean(0) - train.mean(0)).max() < 0.5
    again = held_out_likelihood(model, sets["train"], sets["test"], n=40, tolerance=0.01)
    assert metrics["likelihood"] == json.loads(json.dumps(_plain(again)))
    if labels:
        unguided = samples
        write_params(tmp_path, small(**LEARNING))
        run("sample_points", tmp_path)
        assert np.abs(np.load(tmp_path / "data/samples.npy") - unguided).max() > 1e-3
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
        ({"train.drop_label": 0}, "train.drop_label is 0 but should be above 0 and below 1"),
        ({"train.drop_label": 1}, "train.drop_label is 1 but should be above 0 and below 1"),
    ],
)
def test_invalid_input_gets_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with_points(tmp_path)
    write_params(tmp_path, small(**changes))
    with pytest.raises(UserError, match=message) as refused:
        run("check_points", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_with_labels_that_are_not_shown_to_the_network_is_one_without(
    tmp_path: Path,
) -> None:
    with_points(tmp_path)
    write_params(tmp_path, small(**{"train.drop_label": None}))
    for stage in STAGES:
        run(stage, tmp_path)
    assert "classes" not in json.loads((tmp_path / "reports/metrics.json").read_text())
    assert not np.load(tmp_path / "data/samples_labels.npy").any()


def test_a_label_with_few_points_is_refused_before_training(tmp_path: Path) -> None:
    path = with_points(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:-2], "50,-30,rare", "51,-29,rare"]), encoding="utf-8")
    write_params(tmp_path, small())
    message = r"label 'rare' of points\.csv has [0-2] points among those for training but should"
    with pytest.raises(UserError, match=message):
        run("generate_points", tmp_path)


def test_copies_of_points_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_points(tmp_path)
    write_params(tmp_path, small())
    run("check_points", tmp_path)
    assert "note" not in capsys.readouterr().out
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:-3], *lines[:3]]), encoding="utf-8")
    run("check_points", tmp_path)
    assert "note: 3 of 450 points are copies of others" in capsys.readouterr().out


def test_a_missing_file_is_named_before_dvc_starts(tmp_path: Path) -> None:
    write_params(tmp_path, small())
    with (
        inside(tmp_path),
        pytest.raises(UserError, match=r"points\.csv is missing; change dataset"),
    ):
        preflight.main()


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
