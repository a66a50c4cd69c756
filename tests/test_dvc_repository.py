"""Clones, remotes, comparisons and the check of a lock, by the real dvc with tiny stages."""

import json
from pathlib import Path

import pytest
from dvc_project import STAGES, Project
from test_project import tracked

from benchmarks import seeds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two commits: the pipeline as it is, and with another sampler; a folder as remote."""
    project = Project.tiny(tmp_path_factory.mktemp("repository"))
    project.dvc("repro")
    project.commit("Sample with DDPM")
    project.git("tag", "ddpm")
    project.dvc("exp", "run", "-S", "sampler=ddim")
    project.commit("Sample with DDIM")
    project.dvc("remote", "add", "--local", "--default", "folder", f"{project.root}-remote")
    project.dvc("push", "--run-cache")
    return project


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    return project.clone(tmp_path / "clone")


def test_a_clone_without_cache_or_remote_compares_commits(clone: Project) -> None:
    metrics = clone.json("metrics", "diff", "ddpm", "HEAD")["reports/metrics.json"]
    assert metrics["samples.energy_distance.value"]["diff"] != 0
    sampler = clone.json("params", "diff", "ddpm", "HEAD")["params.yaml"]["sampler"]
    assert sampler == {"old": "ddpm", "new": "ddim"}
    plots = clone.json("plots", "diff", "ddpm", "HEAD")["data"]
    for name in ("loss", "reports/samples.csv", "coefficients of the schedule"):
        assert set(plots[name][0]["revisions"]) == {"ddpm", "HEAD"}, name
    revisions = {image["revisions"][0] for image in plots["reports/samples.png"]}
    assert revisions == {"ddpm", "HEAD"}


def test_the_lock_of_a_fresh_clone_is_not_stale(clone: Project) -> None:
    plan = clone.dvc("repro", "--dry", "--allow-missing")
    assert "Running stage" not in plan


def test_plots_show_has_every_picture_and_curve(project: Project) -> None:
    plots = project.json("plots", "show")["data"]
    assert set(plots) == {
        "loss",
        "coefficients of the schedule",
        "variances of the schedule",
        "denoising error",
        "learned or memorised",
        *(
            path
            for path in tracked()
            if Path(path).parent.name == "reports" and path.endswith(("csv", "png", "gif"))
        ),
    }
    (samples,) = plots["reports/samples.csv"]
    spec = samples["content"] if isinstance(samples["content"], dict) else {}
    assert spec["spec"]["width"] == spec["spec"]["height"]
    encoding = spec["spec"]["encoding"]
    assert encoding["x"]["scale"] == encoding["y"]["scale"]
    rows = (project.root / "reports/samples.csv").read_text(encoding="utf-8").count("\n") - 1
    assert len(spec["data"]["values"]) == rows
    for name in ("variances of the schedule", "denoising error"):
        (curves,) = plots[name]
        assert curves["content"]["encoding"]["y"]["scale"] == {"type": "log"}
    project.dvc("plots", "show")
    assert (project.root / "dvc_plots" / "index.html").exists()


def test_a_remote_that_is_a_folder_brings_everything_and_nothing_is_run(
    clone: Project, project: Project
) -> None:
    clone.dvc("remote", "add", "--local", "--default", "folder", f"{project.root}-remote")
    assert clone.stages_run("pull", "dvc.yaml") == []
    assert clone.outputs() == project.outputs()
    assert clone.stages_run("repro") == []
    assert clone.git("status", "--porcelain") == ""


def test_the_run_cache_serves_every_stage_of_a_clone_that_shares_it(
    clone: Project, project: Project
) -> None:
    clone.dvc("config", "--local", "cache.dir", str(project.root / ".dvc" / "cache"))
    (clone.root / "dvc.lock").unlink()
    output = clone.dvc("repro")
    for stage in STAGES:
        assert f"Stage '{stage}' is cached - skipping run" in output
    assert clone.outputs() == project.outputs()
    assert clone.git("status", "--porcelain") == ""


def test_a_stale_lock_is_not_verified(clone: Project) -> None:
    module = clone.root / "ddpm" / "training" / "loop.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# Changed.\n", encoding="utf-8")
    clone.commit("Change the code and forget the lock")
    output = clone.run(".ci/verify", fails=True)
    assert "verify: dvc.lock is stale; run `make repro` and commit what it changes" in output
    assert "train" in output


def with_seeds(clone: Project, spread: float) -> None:
    """Commit a file over seeds in which every number varies by so many parts of itself."""
    metrics = seeds.metrics_in(clone.root)
    values = {
        name: [value * (1 + spread * k) for k in (-1, 0, 1)] if seeds.is_number(value) else [value]
        for name, value in metrics.items()
    }
    lock = seeds.belongs_to(clone.root / "dvc.lock")
    text = json.dumps({"lock": lock, "values": values})
    (clone.root / "benchmarks" / "seeds.json").write_text(text, encoding="utf-8")
    clone.commit("Measure how much the metrics vary over seeds")


def test_other_bits_are_told_from_another_result_and_the_users_tree_is_left_alone(
    clone: Project, tmp_path: Path
) -> None:
    with_seeds(clone, spread=0.5)
    # A machine that computes otherwise: its pi is another.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text("import math\nmath.pi += 1e-6\n")
    (clone.root / "params.yaml").write_text("a user's half-finished edit", encoding="utf-8")
    before = clone.git("status", "--porcelain")
    output = clone.run(".ci/verify", code=2, environment={"PYTHONPATH": str(tmp_path / "other")})
    assert "verify: uncommitted changes are left out" in output
    assert "gave other bits, and the same result" in output
    assert "\n  data/train.npy\n" in output
    assert "reports/metrics.json: samples.energy_distance.value: " in output
    assert "  NO  " not in output
    assert clone.git("status", "--porcelain") == before
    assert [path.name for path in (clone.root / "data").iterdir()] == ["README.md"]


def test_the_metrics_of_a_commit_are_summed_up_as_markdown(clone: Project) -> None:
    table = clone.run(".ci/summary", "ddpm").splitlines()
    assert table[0].startswith("## Metrics of ")
    assert any("samples.curve_rms" in line for line in table)
    assert clone.run(".ci/summary", "HEAD").endswith("No metric has changed.\n")
