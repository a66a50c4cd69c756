"""KL and excess loss for every schedule and prediction type, over three seeds.

python -m benchmarks.study_schedules            # `make study`: measure what is missing
python -m benchmarks.study_schedules --table    # print the table, draw the figure
python -m benchmarks.study_schedules --trial    # two small cells into checkpoints/, in a minute

Each cell is an experiment in DVC's queue, with data, network and noise of its own seed. One worker
runs them. What a cell measured is moved to benchmarks/study_schedules.json, and its experiment is
removed. After an interruption the same command goes on: it takes over what DVC has finished since.
"""

import itertools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import dvc.api
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.resumable import Results, run_study, training_settings
from ddpm.core.errors import UserError
from ddpm.core.files import replacing
from ddpm.core.settings import PARAMS_FILE
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.plots.style import MODEL, NOISE, TRUTH, save, styled
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS, MEASURED
from stages.common.yaml_loader import load_yaml

_SEEDS = range(3)
_FILE, _FIGURE = Path("benchmarks/study_schedules.json"), Path("docs/schedules.png")
# Dotted parameters of all cells: the measurement is smaller than the pipeline's.
_COMMON: dict[str, Any] = {
    "device": "cpu",
    "measure_model.n_likelihood": 10_000,
    "measure_model.n_denoising": 500,
    "measure_model.n_exact": 200,
    "measure_model.n_memory": 2,
    "measure_model.density_grid": 20,
}
_TRIAL: dict[str, Any] = _COMMON | {
    "data.n_train": 1000,
    "train.steps": 200,
    "measure_model.n_likelihood": 500,
    "measure_model.n_denoising": 20,
    "measure_model.n_exact": 20,
}
# How long a worker may take to appear.
_START_SECONDS = 20
_POLL_SECONDS = 5
_STATES = {"Queued", "Running", "Success", "Failed"}


class Cell(NamedTuple):
    """A schedule with a prediction type and a seed."""

    schedule: str
    prediction: str
    seed: int

    @property
    def name(self) -> str:
        """Its key in the file of results."""
        return "/".join(map(str, self))


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        cells: The grid.
        common: Dotted parameters of all cells.
        prefix: Beginning of the names of the experiments.
        file: The results.
        figure: A picture of them.
    """

    cells: list[Cell]
    common: dict[str, Any]
    prefix: str
    file: Path
    figure: Path

    def experiment(self, cell: Cell) -> str:
        """Name of a cell's experiment."""
        return "-".join([self.prefix, *map(str, cell)])

    def parameters(self, cell: Cell) -> dict[str, Any]:
        """Dotted parameters of a cell's experiment."""
        return cell._asdict() | self.common


FULL = Study(
    list(itertools.starmap(Cell, itertools.product(SCHEDULES, PREDICTIONS, _SEEDS))),
    _COMMON,
    "study",
    _FILE,
    _FIGURE,
)
TRIAL = Study(
    [Cell("linear", "v", 0), Cell("cosine", "eps", 0)],
    _TRIAL,
    "trial",
    CHECKPOINTS / _FILE.name,
    CHECKPOINTS / _FIGURE.name,
)


def command(*words: str) -> str:
    """Run a command of git or dvc; its output.

    Raises:
        UserError: If it fails.
    """
    # Into a file: the worker of dvc's queue lives on with the output, and a pipe would wait for it.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        ended = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False)
        log.seek(0)
        output = log.read()
    if ended.returncode != 0:
        raise UserError(f"`{' '.join(words[:3])}` failed: {output.strip().splitlines()[-1]}")
    return output


class Queue(NamedTuple):
    """State of DVC's queue: that of each experiment by its name, and whether a worker runs."""

    states: dict[str, str]
    has_worker: bool

    @classmethod
    def now(cls) -> "Queue":
        """Ask dvc."""
        output = command("dvc", "queue", "status")
        rows = [line.split() for line in output.splitlines()]
        states = {row[1]: row[-1] for row in rows if row and row[-1] in _STATES}
        return cls(states, ": 0 active, 0 idle" not in output)


def start_worker() -> None:
    """Start a worker, and wait until it is there: a second one would run experiments as well."""
    command("dvc", "queue", "start", "--jobs", "1")
    # It may end before it is seen, and `collect` then starts another.
    for _ in range(_START_SECONDS):
        if Queue.now().has_worker:
            return
        time.sleep(1)


def finished_experiments(commit: str) -> dict[str, str]:
    """Reference of each finished experiment that started from a commit, by its name."""
    folder = f"refs/exps/{commit[:2]}/{commit[2:]}"
    references = command("git", "for-each-ref", "--format=%(refname)", folder).split()
    return {reference.rpartition("/")[2]: reference for reference in references}


def measured(reference: str) -> dict[str, Any]:
    """What the study keeps of an experiment."""
    values = json.loads(dvc.api.read(MEASURED.as_posix(), rev=reference))
    likelihood, denoising = values["likelihood"], values["denoising"]
    return {name: likelihood[name] for name in ("kl", "exact_kl", "t")} | {
        "excess_nats": denoising["excess_nats"]
    }


def remove_from_queue(names: Container[str]) -> None:
    """Remove those experiments from the queue that wait or have failed."""
    states = Queue.now().states
    idle = [name for name in states if name in names and states[name] in {"Queued", "Failed"}]
    if idle:
        command("dvc", "exp", "remove", *idle)


def take_over(study: Study, results: Results, commit: str) -> None:
    """Collect what an interrupted run has finished, and remove the rest of it from the queue."""
    cells = {study.experiment(cell): cell for cell in study.cells}
    remove_from_queue(cells)
    for name, state in Queue.now().states.items():
        if name in cells and state == "Running":
            # If the machine was switched off, nothing runs any more, but DVC does not know.
            command("dvc", "queue", "kill", name)
            while Queue.now().states.get(name) == "Running":
                time.sleep(1)
    remove_from_queue(cells)
    for name, reference in finished_experiments(commit).items():
        if name in cells:
            expected = changed(present_params(), **study.parameters(cells[name]))
            if load_yaml(command("git", "show", f"{reference}:{PARAMS_FILE}")) == expected:
                results.add(cells[name].name, measured(reference))
            command("dvc", "exp", "remove", name)


def measure(study: Study) -> list[str]:
    """Measure the cells that are not in the file of results; names of the failed experiments."""
    settings = training_settings(load_params(), {"schedule", "prediction"})
    results = Results.resume(study.file, settings | {"common": study.common})
    if all(cell.name in results.cells for cell in study.cells):
        return []
    # Without a name for its commit, an experiment fails after all its work.
    command("git", "var", "GIT_COMMITTER_IDENT")
    commit = command("git", "rev-parse", "HEAD").strip()
    take_over(study, results, commit)
    waiting = {
        study.experiment(cell): cell for cell in study.cells if cell.name not in results.cells
    }
    for name, cell in tqdm(waiting.items(), desc="queue", unit="experiment", disable=None):
        overrides = [f"{key}={value}" for key, value in study.parameters(cell).items()]
        words = [word for override in overrides for word in ("--set-param", override)]
        command("dvc", "exp", "run", "--queue", "--name", name, *words, "measure_model")
    try:
        return collect(study, results, waiting, commit)
    except BaseException:
        # Also at Ctrl-C: the worker would go on, and take the next experiment after a kill.
        with suppress(UserError):
            remove_from_queue(waiting)
        command("dvc", "queue", "stop", "--kill")
        raise


def collect(study: Study, results: Results, waiting: dict[str, Cell], commit: str) -> list[str]:
    """Move what queued experiments measured to the file of results; names of those that failed."""
    failed = []
    while waiting:
        queue = Queue.now()
        for name, cell in list(waiting.items()):
            state = queue.states.get(name)
            if state == "Success":
                results.add(cell.name, measured(finished_experiments(commit)[name]))
                command("dvc", "exp", "remove", name)
                kl = results.cells[cell.name]["kl"]["value"]
                done = f"{len(results.cells)} of {len(study.cells)}"
                print(f"{done}: {name}, KL {kl:.4f}", flush=True)
            elif state == "Failed" or (state != "Queued" and not queue.has_worker):
                failed.append(name)
                print(f"{name} failed; see `dvc queue logs {name}`", flush=True)
            else:
                continue
            del waiting[name]
        if waiting and not queue.has_worker:
            start_worker()
        time.sleep(_POLL_SECONDS)
    return failed


def over_seeds(results: Results, schedule: str, prediction: str, metric: str) -> list[float]:
    """Values of a metric, for each seed that was measured."""
    cells = (Cell(schedule, prediction, seed).name for seed in _SEEDS)
    return [results.cells[cell][metric]["value"] for cell in cells if cell in results.cells]


def table(results: Results) -> str:
    """Means and standard deviations over the seeds, as Markdown."""

    def shown(values: list[float]) -> str:
        if len(values) < len(_SEEDS):
            return f"{statistics.mean(values):.4f} ({len(values)} of {len(_SEEDS)} seeds)"
        return f"{statistics.mean(values):.4f}, sd {statistics.stdev(values):.4f}"

    lines = [
        "| schedule | prediction | KL | excess | KL of the exact denoiser |",
        "|---|---|---|---|---|",
    ]
    for schedule, prediction in itertools.product(SCHEDULES, PREDICTIONS):
        columns = [
            over_seeds(results, schedule, prediction, metric)
            for metric in ("kl", "excess_nats", "exact_kl")
        ]
        if all(columns):
            lines.append(f"| {schedule} | {prediction} | {' | '.join(map(shown, columns))} |")
    return "\n".join(lines)


@styled()
def figure(results: Results) -> Figure:
    """KL and excess over the schedules: a dot for each seed, a line at the mean."""
    drawn = Figure(figsize=(9, 3.2), layout="constrained")
    panels = drawn.subplots(1, 2, sharex=True)
    titles = {"kl": "KL(truth || model), nats", "excess_nats": "excess loss, nats of the bound"}
    colors = dict(zip(PREDICTIONS, (MODEL, NOISE, TRUTH), strict=True))
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        for (k, schedule), (j, prediction) in itertools.product(
            enumerate(SCHEDULES), enumerate(PREDICTIONS)
        ):
            values = over_seeds(results, schedule, prediction, metric)
            x, color = k + 0.25 * (j - 1), colors[prediction]
            axes.plot([x] * len(values), values, ".", color=color, label=None if k else prediction)
            if values:
                axes.plot([x - 0.1, x + 0.1], [statistics.mean(values)] * 2, color=color)
        axes.set(yscale="log", title=title, xticks=range(len(SCHEDULES)))
        axes.set_xticklabels(name.replace("_", "\n") for name in SCHEDULES)
        axes.grid(alpha=0.3, axis="y")
    panels[0].legend(title="prediction", fontsize=7)
    return drawn


def present(study: Study) -> None:
    """Print the table, and draw the figure."""
    results = Results.read(study.file)
    print(table(results))
    with replacing(study.figure) as path:
        save(figure(results), path)


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
