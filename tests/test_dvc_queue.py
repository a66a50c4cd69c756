"""Experiments that run beside each other: in DVC's queue, and at once."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from dvc_project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.finished(tmp_path_factory.mktemp("queue"))


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
