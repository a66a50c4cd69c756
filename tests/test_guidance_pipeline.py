"""The pipeline in pipelines/guidance, over the code at the root."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, X86_64_LINUX, run, write_params
from dvc_project import Project
from test_pipeline import dependency_of, files_in, is_code, modules_of, paths

from benchmarks.copies import changed, copy_code
from ddpm.core.errors import UserError
from ddpm.core.params import GuidanceParams, TrainingParams
from stages.common.params import load_params
from stages.common.yaml_loader import load_yaml

FOLDER = ROOT / "pipelines" / "guidance"
STAGES: dict[str, Any] = load_yaml((FOLDER / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SMALL: dict[str, Any] = {
    "device": "cpu",
    "dataset": "moons",
    "data.n_train": 300,
    "data.n_test": 100,
    "diffusion.T": 50,
    "networks.mlp.width": 16,
    "networks.mlp.blocks": 1,
    "loss.neighbours": 16,
    "train.steps": 40,
    "train.batch": 32,
    "train.warmup": 5,
    "train.log_every": 20,
    "guide.width": 8,
    "guide.steps": 10,
    "measure_guidance.scales": "1 2",
    "measure_guidance.sets": 2,
    "measure_guidance.points": 16,
    "measure_guidance.n_likelihood": 20,
    "measure_guidance.tolerance": 0.01,
}


def small(**changes: object) -> dict[str, Any]:
    values = load_yaml((FOLDER / "params.yaml").read_text(encoding="utf-8"))
    return changed(values, **(SMALL | changes))


def outputs(entry: dict[str, Any]) -> list[str]:
    kinds = (entry.get(kind, []) for kind in ("outs", "metrics", "plots"))
    return [path for kind in kinds for path in paths(kind)]


def require_folders_imported(stage: str, entry: dict[str, Any]) -> None:
    """Compare what dvc.yaml lists for a stage of a further pipeline with what it imports."""
    assert entry["cmd"] == f"PYTHONPATH=../.. python -m stages.{stage}"
    modules = modules_of(ROOT / "stages" / f"{stage}.py", set())
    needed = {dependency_of(module) for module in modules} - {"ddpm/studies"}
    code = [path.removeprefix("../../") for path in entry["deps"]]
    assert sorted(path for path in code if is_code(path)) == sorted(needed)
    assert "../../requirements.txt" in entry["deps"]
    assert stage.startswith("check_") or "data/params.ok" in entry["deps"]
    assert all(isinstance(out, str) for out in entry["outs"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_folders_it_imports(stage: str) -> None:
    require_folders_imported(stage, STAGES[stage])


def test_every_stage_writes_what_it_declares_and_repeats_its_bits(tmp_path: Path) -> None:
    write_params(tmp_path, small(**{"guidance.kind": "autoguidance"}))
    before = set(files_in(tmp_path))
    for stage in STAGES:
        run(stage, tmp_path)
        new = {path for path in files_in(tmp_path) if not path.startswith("checkpoints")}
        assert sorted(new - before) == sorted(outputs(STAGES[stage])), stage
        before = new
    written = files_in(tmp_path)
    run("measure_guidance", tmp_path)
    assert files_in(tmp_path) == written
    with (tmp_path / "reports/guidance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["scale"], row["denoiser"]) for row in rows] == [
        (scale, name) for scale in ("1", "2") for name in ("exact", "network", "network, ddpm")
    ]
    exact = rows[0]
    assert abs(float(exact["to_conditional"])) < 0.02
    assert float(rows[3]["to_tilted"]) > 0.1
    metrics = json.loads((tmp_path / "reports/guidance.json").read_text())
    assert set(metrics["kl"]) == {"outer", "inner", "null"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "spiral", "datasets.spiral": {"noise": 0.02}}, "dataset spiral has no labels"),
        ({"guidance.label": 2}, r"guidance.label is 2 but should be 0 to 1 \(outer, inner\)"),
        ({"guidance.kind": "more"}, "guidance.kind is 'more' but should be one of none, cfg, "),
        ({"guidance.scale": 1e9}, r"guidance.scale is 1000000000.0 but should be .* 100"),
        ({"guidance.scale": float("inf")}, "guidance.scale is inf but should be a finite number"),
        (
            {"guidance.kind": "interval", "guidance.low": 1, "guidance.high": 0.5},
            "low is 1 but should be below high, 0.5",
        ),
        ({"train.drop_label": 0}, "train.drop_label is 0 but should be above 0 and below 1"),
        ({"prediction": "x0"}, "prediction is x0 but guidance is measured at t = 0"),
        ({"diffusion.zero_terminal_snr": True}, "guidance .*zero_terminal_snr"),
        ({"measure_guidance.scales": "-2"}, "measure_guidance.scales"),
        ({"train.drop_label": None}, "train.drop_label is missing but guidance needs"),
        ({"datasets.moons.noise": 0}, "datasets.moons.noise is 0 but guidance is measured by"),
        ({"measure_guidance.points": 100}, "measure_guidance.points .*should be a power of two"),
        ({"measure_guidance.scales": "1 two"}, "measure_guidance.scales .*should be numbers with"),
    ],
)
def test_invalid_input_gets_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_params(tmp_path, small(**changes))
    with pytest.raises(UserError, match=message) as refused:
        run("check_guidance", tmp_path)
    assert "\n" not in str(refused.value)


def test_parameters_of_another_pipeline_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write_params(tmp_path, small())
    assert isinstance(load_params(path, kind=TrainingParams), GuidanceParams)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(path)
    assert type(load_params(ROOT / "params.yaml", kind=TrainingParams)).__name__ == "Params"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which only this pipeline has run, at small sizes."""
    project = Project.small(tmp_path_factory.mktemp("guidance"))
    folder = project.root / "pipelines" / "guidance"
    write_params(folder, small())
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / "reports")
    project.commit("Small sizes")
    inside = Project(folder)
    inside.dvc("repro")
    project.commit("Run the pipeline")
    return inside


@X86_64_LINUX
def test_dvc_runs_it_from_its_folder_and_experiments_rerun_only_what_they_must(
    project: Project,
) -> None:
    assert "Data and pipelines are up to date." in project.dvc("repro")
    assert project.git("status", "--porcelain") == ""
    output = project.dvc("exp", "run", "-S", "guidance.scale=3")
    ran = [stage for stage in STAGES if f"python -m stages.{stage}\n" in output]
    assert ran == ["check_guidance", "measure_guidance", "draw_guidance"]
    # The root's own metrics were never made here.
    metrics = project.json("metrics", "diff", "--targets", "reports/guidance.json")
    (changes,) = metrics.values()
    assert changes["guidance.to_tilted.value"]["diff"] != 0
    assert "kl.null.value" not in changes
    failed = project.dvc("exp", "run", "-S", "guidance.kind=more", fails=True)
    assert "error: guidance.kind is 'more' but should be one of none, cfg" in failed
    project.git("checkout", "--quiet", ".")
    project.dvc("checkout", "dvc.yaml")
    assert "Data and pipelines are up to date." in project.dvc("repro")


@pytest.mark.proof
def test_the_bits_of_a_forced_run_are_those_of_the_lock(project: Project) -> None:
    root = Project(project.root.parents[1])
    (root.root / ".venv/bin").mkdir(parents=True)
    for name in ("python", "dvc"):
        target = Path(sys.executable).parent / name
        (root.root / ".venv/bin" / name).write_text(f'#!/bin/sh\nexec "{target}" "$@"\n')
        (root.root / ".venv/bin" / name).chmod(0o755)
    output = root.run(".ci/verify", "guidance")
    assert "verify: a forced run of" in output
    assert "of pipelines/guidance gave the same bits" in output


# A stage that edits a module while it runs.
STAGE = """
from pathlib import Path
from stages.common.run import run
from stages.generate_labelled import main as generate

def main():
    generate()
    Path('../../ddpm/data/curves.py').open('a').write('# edited')

if __name__ == "__main__":
    run(main)
"""


def test_an_edit_while_a_stage_of_the_folder_runs_drops_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    copy_code(tmp_path)
    (tmp_path / "stages" / "generate_and.py").write_text(STAGE, encoding="utf-8")
    folder = tmp_path / "pipelines" / "guidance"
    (folder / "data").mkdir(parents=True)
    pipeline = (FOLDER / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(pipeline.replace("  generate_labelled:", "  generate_and:"))
    (folder / "data" / "params.ok").write_text("ok")
    (tmp_path / "requirements.txt").write_text("")
    write_params(folder, small())
    ended = subprocess.run(
        [sys.executable, "-m", "stages.generate_and"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "../.."},
        capture_output=True,
        text=True,
        check=False,
    )
    message = "error: ../../ddpm/data/curves.py was changed while stage generate_and ran"
    assert ended.stderr.startswith(message)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert [path.name for path in (folder / "data").iterdir()] == ["params.ok"]
