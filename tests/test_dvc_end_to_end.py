"""The real stages under the real dvc, at small sizes: from nothing to every output, and again."""

import pytest
from dvc_project import STAGES, Project
from test_pipeline import outputs

from benchmarks import seeds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """All stages have run, from a clone without results, and all is committed."""
    project = Project.small(tmp_path_factory.mktemp("end_to_end"))
    assert project.outputs() == {}
    assert project.stages_run("repro") == list(STAGES)
    project.commit("Run the pipeline")
    return project


def test_every_output_is_made_and_nothing_is_left_to_run(project: Project) -> None:
    assert sorted(project.outputs()) == sorted(path for stage in STAGES for path in outputs(stage))
    assert project.git("status", "--porcelain") == ""
    assert "Data and pipelines are up to date." in project.dvc("status")
    assert "Data and pipelines are up to date." in project.dvc("repro")


def test_an_invalid_experiment_stops_at_the_check_and_loses_nothing(project: Project) -> None:
    before = project.outputs()
    output = project.dvc("exp", "run", "-S", "schedule=cosinus", fails=True)
    assert "error: schedule is 'cosinus' but should be one of linear, scaled_linear, " in output
    assert "stages.generate" not in output
    lost = before.keys() - project.outputs().keys()
    assert lost == {"data/params.ok"}
    project.git("checkout", "--quiet", ".")
    assert project.stages_run("repro") == []
    assert project.outputs() == before


def test_a_copys_own_code_and_parameters_are_what_runs(project: Project) -> None:
    before = project.outputs()
    params = (project.root / "params.yaml").read_bytes()
    module = project.root / "ddpm" / "data" / "curves.py"
    code = module.read_bytes()
    words = ("exp", "run", "--temp", "--name", "apart", "-S", "seed=7", "generate")
    running = project.start("dvc", *words)
    try:
        # As soon as the copy's first stage runs, the workspace is broken in both respects.
        assert running.stdout is not None
        for line in running.stdout:
            if "Running stage 'check'" in line:
                break
        module.write_text("raise RuntimeError('the workspace was imported')\n", encoding="utf-8")
        (project.root / "params.yaml").write_text("seed: [\n", encoding="utf-8")
        output, _ = running.communicate(timeout=300)
        assert running.returncode == 0, output
    finally:
        running.kill()
        module.write_bytes(code)
        (project.root / "params.yaml").write_bytes(params)
    assert project.outputs() == before
    assert "'data/train.npy'" not in project.dvc("status")
    lock = project.root / "dvc.lock"
    committed = seeds.outputs_of(lock)
    (ref,) = project.git("for-each-ref", "--format=%(refname)", "refs/exps/**/apart").split()
    lock.write_text(project.git("show", f"{ref}:dvc.lock"), encoding="utf-8")
    apart = seeds.outputs_of(lock)
    project.git("checkout", "--quiet", "dvc.lock")
    assert {path for path in committed if apart[path] != committed[path]} >= {"data/train.npy"}
    (changed,) = project.json("params", "diff", "HEAD", "apart")["params.yaml"].items()
    assert changed == ("seed", {"old": 0, "new": 7, "diff": 7})
