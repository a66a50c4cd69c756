"""Experiments as people type them, by the real dvc with tiny stages."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from dvc_project import STAGES, Project

from benchmarks import seeds


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.tiny(tmp_path_factory.mktemp("experiments"))
    assert project.stages_run("repro") == list(STAGES)
    project.commit("Run the pipeline")
    return project


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert "Data and pipelines are up to date." in project.dvc("repro")
    assert project.git("status", "--porcelain") == ""


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


@pytest.fixture
def workers(project: Project) -> Iterator[None]:
    """Ends the queue's workers, which sometimes outlive their work."""
    yield
    for file in (project.root / ".dvc/tmp/exps/celery").glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(int(file.read_text())), signal.SIGKILL)


@pytest.mark.usefixtures("workers")
def test_a_grid_runs_in_a_queue(project: Project) -> None:
    grid = ("-S", "sampler=ddim,heun", "-S", "sample.steps=20")
    assert project.dvc("exp", "run", "--queue", *grid).count("Queued experiment") == 2
    project.dvc("queue", "start")
    deadline = time.monotonic() + 300
    while "Queued" in (status := project.dvc("queue", "status")) or "Running" in status:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert status.count("Success") == 2, status
    found = {(one["sampler"], one["steps"]): one for one in shown(project)}
    assert set(found) >= {("ddim", 20), ("heun", 20)}
    assert len({one["energy_distance"] for one in found.values()}) == len(found)
    assert "energy_distance" in project.dvc("exp", "show", "--md")
    name = found["heun", 20]["name"]
    metrics = project.json("metrics", "diff", "HEAD", name)["reports/metrics.json"]
    assert metrics["samples.energy_distance.value"]["diff"] != 0
    changed = project.json("params", "diff", "HEAD", name)["params.yaml"]
    assert changed["sampler"] == {"old": "ddpm", "new": "heun"}
    assert changed["sample.steps"] == {"old": 1000, "new": 20, "diff": -980}


def shown(project: Project) -> list[dict[str, Any]]:
    """Name, parameters and energy distance of every experiment in `dvc exp show`."""
    found = []
    for revision in json.loads(project.dvc("exp", "show", "--json")):
        for one in revision["experiments"] or []:
            for state in one["revs"]:
                params = state["data"]["params"]["params.yaml"]["data"]
                metrics = state["data"]["metrics"]["reports/metrics.json"]["data"]
                distance = metrics["samples"]["energy_distance"]["value"]
                found.append(
                    {
                        "name": one["name"],
                        "sampler": params["sampler"],
                        "steps": params["sample"]["steps"],
                        "seed": params["seed"],
                        "energy_distance": distance,
                    }
                )
    return found


@pytest.mark.proof
def test_two_repros_and_an_experiment_at_once_end_well_or_with_a_clear_line(
    project: Project,
) -> None:
    file = project.root / "params.yaml"
    params = file.read_text(encoding="utf-8")
    file.write_text(params.replace("seed: 0", "seed: 3"), encoding="utf-8")
    at_once = [("repro",), ("repro",), ("exp", "run", "--temp", "--name", "aside", "-S", "seed=4")]
    running = [project.start("dvc", *words) for words in at_once]
    outputs = [one.communicate(timeout=300)[0] for one in running]
    # To queue -S, dvc edits the workspace's params.yaml: a stage may see it, even while empty.
    clear = (
        *("is busy, it is being blocked by", "acquire lock", " was changed while stage "),
        "params.yaml holds None but should be a mapping",
    )
    for one, output in zip(running, outputs, strict=True):
        assert "Traceback" not in output
        assert one.returncode == 0 or any(line in output for line in clear), output
    project.dvc("repro")
    after = project.outputs()
    project.dvc("repro", "--force")
    assert project.outputs() == after
    assert "Data and pipelines are up to date." in project.dvc("repro")
    if running[2].returncode == 0:
        assert {"seed": 4}.items() <= max(shown(project), key=lambda one: one["seed"]).items()
    # Git may not see the change: the size is the same, and DVC has updated the index of git.
    file.write_text(params, encoding="utf-8")
    project.git("checkout", "--quiet", ".")
    assert project.stages_run("repro") == []
    assert project.git("status", "--porcelain") == ""


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


@pytest.mark.usefixtures("workers")
def test_a_study_reports_failures_and_runs_only_what_is_missing(project: Project) -> None:
    trial = ("python", "-m", "benchmarks.study_schedules", "--trial")
    likelihood = {"kl": {"value": 0.5, "se": 0.1}, "exact_kl": {"value": 0.1, "se": 0.1}, "t": 0}
    example = {"likelihood": likelihood, "denoising": {"excess_nats": {"value": 0.5, "se": 0.1}}}
    (project.root / "examples/measured.json").write_text(json.dumps(example), encoding="utf-8")
    stage = project.root / "stages/train.py"
    text = stage.read_text(encoding="utf-8")
    failing = "    if 'prediction: eps' in open('params.yaml').read(): sys.exit('no eps today')\n"
    stage.write_text(text.replace("    stage = ", f"{failing}    stage = "), encoding="utf-8")
    project.commit("Fail for eps")
    # An earlier study was killed when it had queued this; its parameters were others.
    queued = ("exp", "run", "--queue", "--name", "trial-linear-v-0", "-S", "seed=7")
    project.dvc(*queued, "measure_model")
    output = project.run(*trial, fails=True)
    assert "trial-cosine-eps-0 failed; see `dvc queue logs trial-cosine-eps-0`" in output
    assert "1 of 2: trial-linear-v-0, KL " in output
    assert "no eps today" in project.dvc("queue", "logs", "trial-cosine-eps-0")
    assert "trial-linear-v-0" not in project.dvc("queue", "status")
    stage.write_text(text, encoding="utf-8")
    project.commit("Do not fail")
    output = project.run(*trial)
    assert "2 of 2: trial-cosine-eps-0, KL " in output
    assert "trial-linear-v-0" not in output
    assert "trial-" not in project.dvc("queue", "status") + project.dvc(
        "exp", "list", "--all-commits"
    )
    output = project.run(*trial)
    assert "of 2" not in output
    assert "| linear | v | " in output
    cells = json.loads((project.root / "checkpoints/study_schedules.json").read_text())["cells"]
    assert set(cells) == {"linear/v/0", "cosine/eps/0"}
