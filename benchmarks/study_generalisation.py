"""From memorising to generalising: networks trained on 10 to 100,000 points.

python -m benchmarks.study_generalisation            # `make study`: measure what is missing
python -m benchmarks.study_generalisation --table    # print the tables, draw the figure
python -m benchmarks.study_generalisation --trial    # small networks into checkpoints/, in a minute

A cell is a number of training points with a way of training. It trains a network for each of three
seeds, with training points, initial weights and batches of its own, and compares all of them at the
same x_t with the optimal denoisers of the true distribution and of their training samples, and with
each other. All cells share one scaling. After an interruption the same command goes on, also in the
middle of a cell: its networks stay in checkpoints/ until it has been measured.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.resumable import Results, divergence, run_study, training_settings
from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.files import replacing
from ddpm.core.params import Params
from ddpm.data.datasets import DATASETS
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.networks.registry import NETWORKS
from ddpm.plots.style import MODEL, NOISE, TRUTH, save, styled
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.studies.denoising import log_spaced
from ddpm.studies.memorisation import Comparison, decades, denoiser_distances
from ddpm.training.checkpoint import Checkpoint
from ddpm.training.loop import train
from stages import CODE
from stages.common.params import load_params, select
from stages.common.paths import CHECKPOINTS
from stages.common.task import task_of

_SEEDS = range(3)
_FILE = Path("benchmarks/study_generalisation.json")
_FIGURE = Path("docs/generalisation.png")
# True points from which the scaling is computed, and points for the loss that training reports.
_SCALING_POINTS, _TEST_POINTS = 1_000_000, 1000
# A mean log-ratio of more nats comes from points that were driven away exponentially.
_RUNAWAY = 1e4


class Sizes(NamedTuple):
    """Sizes of the measurement.

    Attributes:
        likelihood: True points behind each KL.
        tolerance: Tolerance of the solver of the probability flow.
        points: True points at which the denoisers are compared.
        times: Times at which they are compared, at most.
    """

    likelihood: int
    tolerance: float
    points: int
    times: int


class Cell(NamedTuple):
    """A way of training, and a number of training points."""

    training: str
    n: int

    @property
    def name(self) -> str:
        """Its key in the file of results."""
        return f"{self.training}/{self.n}"


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        cells: The grid.
        sizes: Sizes of the measurement.
        steps: Steps of training, or None for those in params.yaml.
        file: The results.
        figure: A picture of them.
    """

    cells: list[Cell]
    sizes: Sizes
    steps: int | None
    file: Path
    figure: Path


def _updated(params: Params, section: str, **values: object) -> Params:
    settings = getattr(params, section).model_copy(update=values)
    return params.model_copy(update={section: settings})


# Ways of training: what is changed in the parameters, by its name in the tables.
TRAININGS: dict[str, Callable[[Params], Params]] = {
    "as in the pipeline": lambda params: params,
    "targets not averaged": lambda params: _updated(params, "loss", neighbours=1),
    "4 times the steps": lambda params: _updated(params, "train", steps=4 * params.train.steps),
}
_PIPELINE, *_CHANGED = TRAININGS


def _grid(sizes: Sequence[int], repeated: Sequence[int]) -> list[Cell]:
    changed = itertools.product(_CHANGED, repeated)
    return [*(Cell(_PIPELINE, n) for n in sizes), *itertools.starmap(Cell, changed)]


FULL = Study(
    _grid([10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000], repeated=[300, 3000, 30_000]),
    Sizes(likelihood=10_000, tolerance=1e-5, points=400, times=24),
    None,
    _FILE,
    _FIGURE,
)
TRIAL = Study(
    _grid([10, 100, 1000], repeated=[100]),
    Sizes(likelihood=200, tolerance=1e-3, points=50, times=8),
    200,
    CHECKPOINTS / _FILE.name,
    CHECKPOINTS / _FIGURE.name,
)


def checkpoint_of(cell: Cell, params: Params, seed: int) -> Checkpoint:
    """The file that holds a network of a cell until the cell has been measured."""
    determined_by = {
        "cell": cell,
        "code": sorted(CODE.values()),
        "params": training_settings(params, set()),
        "seed": seed,
        "torch": torch.__version__,
    }
    return Checkpoint.of(CHECKPOINTS, determined_by)


def measure_cell(cell: Cell, params: Params, sizes: Sizes) -> dict[str, Any]:
    """Train the networks of a cell, and measure them.

    Returns:
        `kl` (None if points run away), and for each range of t the mean squared distances between
        two x0_hat: `to_truth`, `to_sample`, `truth_to_sample` and `to_another`, and `share`. Each
        is a list over the seeds, but `to_another`: over the pairs of seeds.
    """
    changed = TRAININGS[cell.training](params)
    dataset = select(params, "dataset", DATASETS)
    task = task_of(changed)
    many = dataset.sample(_SCALING_POINTS, generator=stream(0, "study/scaling"))
    scaling = Scaling.from_points(many)
    test_points = scaling.to_model(many[:_TEST_POINTS]).float()
    samples = [
        scaling.to_model(dataset.sample(cell.n, generator=stream(seed, f"study/{cell.n}"))).float()
        for seed in _SEEDS
    ]
    networks = []
    for seed, points in zip(_SEEDS, samples, strict=True):
        generator = stream(seed, "study/initialise")
        averaged, _ = train(
            select(params, "network", NETWORKS).create(task.schedule.T, generator=generator),
            task,
            points,
            test_points,
            settings=changed.train,
            seed=seed,
            checkpoint=checkpoint_of(cell, params, seed),
        )
        networks.append(task.denoiser(averaged))
    exact = ExactDistribution.from_dataset(dataset, scaling, task.schedule)
    # With the seed 0, all networks of all cells are measured on the same points.
    models = [ModelUnderTest(network, exact, dataset, scaling, seed=0) for network in networks]
    optimal = [ExactDistribution.from_points(points, task.schedule) for points in samples]
    ranges = compare(models, [distribution.denoiser for distribution in optimal], sizes)
    return {"kl": [_kl(model, sizes) for model in models]} | ranges


def _kl(model: ModelUnderTest, sizes: Sizes) -> dict[str, float] | None:
    """KL(truth || model), or None if points run away along the flow of a network that overfits."""
    try:
        mean = divergence(model, sizes.likelihood, sizes.tolerance)
    except UserError:
        return None
    return mean._asdict() if mean.value < _RUNAWAY else None


def compare(
    models: Sequence[ModelUnderTest], optimal: Sequence[Denoiser], sizes: Sizes
) -> dict[str, dict[str, list[float]]]:
    """Compare networks with the truth, with their samples and with each other, by range of t.

    Args:
        models: Networks, all with the same exact distribution.
        optimal: For each, the optimal denoiser of its training sample.
        sizes: Sizes of the measurement.
    """
    first, count = models[0], len(models)
    times = log_spaced(first.schedule.T, sizes.times)
    denoisers = [first.exact.denoiser, *(model.denoiser for model in models), *optimal]
    fresh = first.fresh(sizes.points, "study/compare")
    distances = denoiser_distances(denoisers, fresh, times, seed=first.seed)
    networks = range(1, 1 + count)
    comparisons = [
        Comparison(times, distances[0, k], distances[k, k + count], distances[0, k + count])
        for k in networks
    ]
    between = [distances[pair] for pair in itertools.combinations(networks, 2)]
    ranges = {}
    for name, start, end in decades(first.schedule.T):
        inside = [start <= t <= end for t in times]

        def mean(squares: Tensor, inside: list[bool] = inside) -> float:
            return float(squares[inside].mean())

        ranges[name] = {
            "to_truth": [mean(comparison.to_truth) for comparison in comparisons],
            "to_sample": [mean(comparison.to_sample) for comparison in comparisons],
            "truth_to_sample": [mean(comparison.truth_to_sample) for comparison in comparisons],
            "share": [comparison.by_range()[name]["share"].value for comparison in comparisons],
            "to_another": [mean(squares) for squares in between],
        }
    return ranges


def measure(study: Study) -> None:
    """Measure the cells that are not in the file of results."""
    params = load_params()
    if study.steps is not None:
        params = _updated(params, "train", steps=study.steps)
    settings = training_settings(params, {"data"}) | {"sizes": study.sizes._asdict()}
    results = Results.resume(study.file, settings)
    for cell in study.cells:
        if cell.name not in results.cells:
            results.add(cell.name, measure_cell(cell, params, study.sizes))
            for seed in _SEEDS:
                checkpoint_of(cell, params, seed).remove()
            print(f"{len(results.cells)} of {len(study.cells)}: {cell.name}", flush=True)


def sizes_of(results: Results, training: str) -> list[int]:
    """Numbers of points that were measured with a way of training, ascending."""
    cells = (name.rpartition("/") for name in results.cells)
    return sorted(int(n) for name, _, n in cells if name == training)


def table(results: Results) -> str:
    """KL and distances of every cell, as Markdown: means over the seeds."""
    ranges = _ranges(results)
    header = " | ".join(_title(name) for name in ranges)
    lines = [f"| points | training | KL | {header} |", "|---|---|---|" + "---|" * len(ranges)]
    for training in TRAININGS:
        for n in sizes_of(results, training):
            cell = results.cells[Cell(training, n).name]
            kl = _divergences(cell)
            distances = [
                " / ".join(f"{statistics.mean(cell[name][key]):.1e}" for key in _DISTANCES)
                for name in ranges
            ]
            shown = f"{statistics.mean(kl):.4g}" if kl else "infinite"
            shown += f", sd {statistics.stdev(kl):.1g}" if len(kl) > 1 else ""
            shown += f" ({len(kl)} of {len(_SEEDS)} seeds)" if 0 < len(kl) < len(_SEEDS) else ""
            lines.append(f"| {n:,} | {training} | {shown} | {' | '.join(distances)} |")
    return "\n".join(lines)


def _divergences(cell: Mapping[str, Any]) -> list[float]:
    """KL of the seeds that have one."""
    return [mean["value"] for mean in cell["kl"] if mean is not None]


def shares(results: Results) -> str:
    """Position between the optimal denoisers of truth (0) and sample (1), as Markdown."""
    ranges = _ranges(results)
    header = " | ".join(_title(name) for name in ranges)
    lines = [f"| points | training | {header} |", "|---|---|" + "---|" * len(ranges)]
    for training in TRAININGS:
        for n in sizes_of(results, training):
            cell = results.cells[Cell(training, n).name]
            seeds = [cell[name]["share"] for name in ranges]
            shown = [
                f"{statistics.mean(part):.2f}, sd {statistics.stdev(part):.2f}" for part in seeds
            ]
            lines.append(f"| {n:,} | {training} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _ranges(results: Results) -> list[str]:
    names = next(iter(results.cells.values())).keys() - {"kl"}
    return sorted(names, key=lambda name: int(name.split("_")[1]))


def _title(name: str) -> str:
    """A range of t in words: "t = 1 to 9" for "t_1_to_9"."""
    return name.replace("_", " ").replace("t ", "t = ", 1)


# Lines of the figure: what is measured, its label and its colour.
_DISTANCES = {
    "to_truth": ("to the truth's optimal denoiser", TRUTH),
    "to_sample": ("to the sample's optimal denoiser", MODEL),
    "to_another": ("between two networks", NOISE),
}
_MARKERS = dict(zip(TRAININGS, "o^s", strict=True))


@styled()
def figure(results: Results) -> Figure:
    """KL and distances over the number of training points: means over the seeds."""
    drawn = Figure(figsize=(9, 6.4), layout="constrained")
    panels = list(drawn.subplots(2, 2, sharex=True).flat)
    _lines(panels[0], results, _divergences, "black")
    panels[0].set_title("KL(truth || model), nats")
    for training, marker in _MARKERS.items():
        panels[0].plot([], [], marker, color="black", fillstyle="none", label=training)
    for axes, name in zip(panels[1:], _ranges(results), strict=True):
        for key, (label, color) in _DISTANCES.items():
            _lines(axes, results, lambda cell, at=(name, key): cell[at[0]][at[1]], color)
            axes.plot([], [], color=color, label=label)
        axes.set_title(f"squared distance of x0_hat, {_title(name)}")
    for axes in panels:
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    for axes in panels[:2]:
        axes.legend(fontsize=7)
    for axes in panels[2:]:
        axes.set_xlabel("training points")
    return drawn


def _lines(
    axes: Axes, results: Results, values: Callable[[dict[str, Any]], list[float]], color: str
) -> None:
    """Draw means over the seeds: a line for the pipeline's training, markers for the others."""
    for training, marker in _MARKERS.items():
        sizes = sizes_of(results, training)
        measured = [values(results.cells[Cell(training, n).name]) for n in sizes]
        means = [statistics.mean(seeds) if seeds else math.nan for seeds in measured]
        line = "-" if training == _PIPELINE else "none"
        style = {"linestyle": line, "marker": marker, "fillstyle": "none", "markersize": 5}
        axes.plot(sizes, means, color=color, **style)


def present(study: Study) -> None:
    """Print the tables, and draw the figure."""
    results = Results.read(study.file)
    print(table(results))
    print()
    print(shares(results))
    with replacing(study.figure) as path:
        save(figure(results), path)


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
