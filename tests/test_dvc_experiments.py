"""Experiments as people type them, by the real dvc with tiny stages."""

import json

import pytest
from dvc_project import STAGES, Project

from benchmarks import seeds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.finished(tmp_path_factory.mktemp("experiments"))


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert "Data and pipelines are up to date." in project.dvc("repro")
    assert project.git("status", "--porcelain") == ""


def test_who_never_ran_the_other_pipeline_is_not_disturbed_by_it(project: Project) -> None:
    assert (project.root / "pipelines/guidance/dvc.lock").exists()
    assert "Data and pipelines are up to date." in project.dvc("repro")
    assert "up to date" in project.dvc("status", "dvc.yaml")
    project.dvc("checkout", "dvc.yaml")
    # Without the name, dvc asks for results that were never made here.
    assert "pipelines/guidance" in project.dvc("checkout", fails=True)


AFTER_TRAINING = STAGES[STAGES.index("train") :]


def test_an_experiment_runs_what_it_must_and_going_back_runs_nothing(project: Project) -> None:
    before = project.outputs()
    settings = ["schedule=cosine", "prediction=eps", "train.lr=2e-05"]
    assert project.stages_run(*experiment(settings)) == ["check", "diffuse", *AFTER_TRAINING]
    assert project.git("diff", "--numstat", "params.yaml").split()[:2] == ["3", "3"]
    assert project.outputs() != before
    # DVC writes it in a form that PyYAML alone would read as text.
    model = json.loads(project.outputs()["models/denoiser.safetensors"])
    assert model["used"]["train"]["lr"] == 2e-5
    back = ["schedule=linear", "prediction=v", "train.lr=0.006"]
    assert set(project.stages_run(*experiment(back))) <= {"check"}
    assert project.outputs() == before
    project.git("checkout", "--quiet", ".")
    assert "Data and pipelines are up to date." in project.dvc("repro")


def test_another_sampler_trains_and_measures_no_model(project: Project) -> None:
    file = project.root / "params.yaml"
    params = file.read_text(encoding="utf-8")
    file.write_text(params.replace("sampler: ddpm", "sampler: ddim"), encoding="utf-8")
    planned = project.stages_run("repro", "--dry")
    file.write_text(params, encoding="utf-8")
    # What depends on the samples alone is not in a plan.
    assert set(planned) == {"check", "sample", "attribute_error"}


def experiment(settings: list[str]) -> list[str]:
    return ["exp", "run", *(word for setting in settings for word in ("-S", setting))]


def test_a_parameter_that_does_not_exist_is_refused_by_dvc(project: Project) -> None:
    project.dvc("exp", "run", "-S", "train.rate=1", fails=True)
    assert project.git("status", "--porcelain") == ""


def planned(project: Project, *edited: str) -> set[str]:
    """The stages that a repro would run if a line were added to these files; then it is taken away.

    A file that is missing is new.
    """
    files = [project.root / name for name in edited]
    before = {file: file.read_bytes() for file in files if file.exists()}
    for file in files:
        file.write_bytes(before.get(file, b"") + b"\n# Edited.\n")
    plan = project.stages_run("repro", "--dry")
    for file in files:
        if file in before:
            file.write_bytes(before[file])
        else:
            file.unlink()
    return set(plan)


@pytest.mark.parametrize(
    ("edited", "rerun"),
    [
        ("ddpm/plots/style.py", {"diffuse", "draw_figures"}),
        ("ddpm/studies/attribution.py", {"attribute_error"}),
    ],
)
def test_an_edit_reruns_only_the_stages_that_use_the_file(
    project: Project, edited: str, rerun: set[str]
) -> None:
    assert planned(project, edited) == rerun


def test_the_hidden_files_of_editors_and_notes_rerun_nothing(project: Project) -> None:
    names = (".loop.py.swp", "loop.py~", "#loop.py#", ".#loop.py")
    hidden = [f"ddpm/training/{name}" for name in names]
    assert planned(project, *hidden, "stages/common/notes.txt") == set()


def test_an_edit_of_a_metric_the_solver_or_a_figure_does_not_retrain(project: Project) -> None:
    edited = ("reference/distances.py", "flow/ode.py", "plots/fields.py", "__init__.py")
    rerun = planned(project, *(f"ddpm/{name}" for name in edited))
    assert {"measure_samples", "sample", "draw_figures"} <= rerun
    assert "train" not in rerun


def test_a_copys_own_code_and_parameters_are_what_runs(project: Project) -> None:
    before = project.outputs()
    params = (project.root / "params.yaml").read_bytes()
    module = project.root / "stages" / "common" / "outputs.py"
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
