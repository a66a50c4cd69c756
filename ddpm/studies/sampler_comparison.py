"""Samplers compared at equal cost, on the network and on the exact denoiser.

With the exact denoiser, the error that remains is the sampler's own; the difference between the two
is what the network has not learned. Every cell starts from the same noise and is compared with the
same true set, so the errors of the cells are correlated. Differences from a reference cell are
therefore given with standard errors of their own, from paired samples.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel
from ddpm.core.params import CompareSamplersSettings, MeasureSamplesSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.reference.distances import DISTANCES
from ddpm.reference.estimates import Distance, mean_of, null_distances, with_floor
from ddpm.reference.log_density import LogDensityMeasure, SampleLogDensity
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import OptimisedTimes
from ddpm.studies.reverse_kl import ReverseKL, reverse_kl
from ddpm.studies.sampler_cells import Cell, plan, reference_cell

Points = Float64[Tensor, "n 2"]

# Points sampled at once.
_BLOCK = 5000

# Empty where the density of the samples is not known.
DENSITY_COLUMNS = (
    *(
        f"{name}{part}"
        for name in ("reverse_kl", "reverse_kl_cut")
        for part in ("", "_se", "_difference", "_difference_se")
    ),
    "folded",
    "mass",
)
COLUMNS = (
    "sampler",
    "spacing",
    "evaluations",
    "denoiser",
    *(
        f"{distance}{part}"
        for distance in DISTANCES
        for part in ("", "_se", "_floor", "_difference", "_difference_se")
    ),
    "log_density",
    "log_density_se",
    "log_density_truth",
    "log_density_difference",
    "log_density_difference_se",
    "strays",
    *DENSITY_COLUMNS,
)


class ComparedCell(NamedTuple):
    """A cell with a denoiser: the evaluations used, the samples (data units), and their metrics."""

    cell: Cell
    denoiser: str
    evaluations: int
    points: Points
    metrics: dict[str, float]

    def row(self) -> dict[str, Any]:
        """Values of COLUMNS."""
        values = {
            "sampler": self.cell.sampler,
            "spacing": self.cell.spacing,
            "evaluations": self.evaluations,
            "denoiser": self.denoiser,
            **self.metrics,
        }
        return {name: values.get(name, math.nan) for name in COLUMNS}


class Measurements(NamedTuple):
    """Measurements of one sampler.

    Attributes:
        distances: Distances of its samples to a true set, by name.
        log_density: Log densities of its samples.
        reverse_kl: KL(sampler || truth), where the density of its samples is known.
    """

    distances: dict[str, Distance]
    log_density: SampleLogDensity
    reverse_kl: ReverseKL | None = None

    def differences(self, reference: "Measurements") -> dict[str, float]:
        """Differences from a reference whose samples started from the same noise."""
        differences = {
            name: distance.minus(reference.distances[name])
            for name, distance in self.distances.items()
        }
        paired = self.log_density.values - reference.log_density.values
        differences["log_density"] = mean_of(paired)
        if self.reverse_kl and reference.reverse_kl:
            value, cut = self.reverse_kl.minus(reference.reverse_kl)
            differences |= {"reverse_kl": value, "reverse_kl_cut": cut}
        return {
            f"{name}_difference{part}": value
            for name, difference in differences.items()
            for part, value in zip(("", "_se"), difference, strict=True)
        }


class SampleEvaluator:
    """Measures samples, in data units: their distances to a true set, and their mean log density.

    The true sets are drawn once, and serve for all samples.

    Args:
        model: Supplies the exact distribution.
        n: Number of points of each true set; samples should have as many.
        settings: Number of pairs of true sets, which give the floors, and settings of distances.
    """

    def __init__(self, model: ModelUnderTest, n: int, settings: MeasureSamplesSettings) -> None:
        true_set, pairs = model.true_sets(n, settings.null_pairs, "compare")
        distances_to = {
            name: partial(distance, settings=settings) for name, distance in DISTANCES.items()
        }
        self._distances = {name: distance(true_set) for name, distance in distances_to.items()}
        self._null = {
            name: null_distances(distance, pairs) for name, distance in distances_to.items()
        }
        self._log_density = LogDensityMeasure(model, true_set, *itertools.chain(*pairs))

    def __call__(self, points: Points) -> Measurements:
        """Compute all distances, and the log densities (see `LogDensityMeasure`)."""
        distances = {name: distance(points) for name, distance in self._distances.items()}
        return Measurements(distances, self._log_density(points, "compare"))

    def metrics(self, measurements: Measurements) -> dict[str, float]:
        """Add standard errors, and the values of true samples."""
        metrics: dict[str, float] = {}
        for name, distance in measurements.distances.items():
            estimate = with_floor(distance, self._null[name])
            metrics |= {
                name: estimate.value,
                f"{name}_se": estimate.se,
                f"{name}_floor": estimate.floor,
            }
        log_density = measurements.log_density.mean
        if kl := measurements.reverse_kl:
            metrics |= {
                "reverse_kl": kl.value.value,
                "reverse_kl_se": kl.value.se,
                "reverse_kl_cut": kl.cut.value,
                "reverse_kl_cut_se": kl.cut.se,
                "folded": kl.folded,
                "mass": kl.mass,
            }
        return metrics | {
            "log_density": log_density.value,
            "log_density_se": log_density.se,
            "log_density_truth": self._log_density.truth.value,
            "strays": measurements.log_density.strays,
        }


def compare(
    model: ModelUnderTest,
    samplers: Mapping[str, Sampler],
    cells: Sequence[Cell],
    optimised: OptimisedTimes,
    evaluator: SampleEvaluator,
    settings: CompareSamplersSettings,
) -> list[ComparedCell]:
    """Sample every cell with the network and, unless it takes too long, with the exact denoiser.

    Args:
        model: The model, and the exact distribution.
        samplers: Samplers by name.
        cells: Cells to sample; see `valid_cells`.
        optimised: Times of the optimised spacings.
        evaluator: Computes the metrics of the samples.
        settings: Numbers of samples, the numbers of evaluations up to which the exact denoiser and
            the output density are included, and the name of the reference, one of the cells. It
            includes both always, and differences are taken from its samples with the same denoiser.

    Raises:
        UserError: If a cell cannot run (see `is_valid`), or the reference is not among them.
    """
    reference = reference_cell(settings.reference, cells)
    denoisers = {"network": model.denoiser, "exact": model.exact.denoiser}
    pairs = [
        (cell, name)
        for cell in cells
        for name in denoisers
        if name == "network" or cell.evaluations <= settings.exact_up_to or cell == reference
    ]
    with tqdm(total=len(pairs), desc="compare", unit="cell", disable=None) as bar:

        def sample(pair: tuple[Cell, str]) -> tuple[int, Points, Measurements]:
            cell, denoiser = pair[0], denoisers[pair[1]]
            sampler, times = plan(cell, samplers, model.schedule, optimised)
            points, evaluations = sample_cell(model, sampler, times, denoiser, settings.n)
            measurements = evaluator(points)
            has_density = sampler.deterministic and model.noise > 0
            if has_density and (cell.evaluations <= settings.density_up_to or cell == reference):
                kl = reverse_kl(model, sampler, denoiser, times, n=settings.n_density)
                # One step from pure noise leads to a single point, which has no density.
                if bool(kl.log_ratios.isfinite().all()):
                    measurements = measurements._replace(reverse_kl=kl)
            bar.update()
            return evaluations, points, measurements

        sampled = dict(zip(pairs, in_parallel(sample, pairs), strict=True))
    return [
        ComparedCell(
            cell,
            name,
            evaluations,
            points,
            evaluator.metrics(measurements) | measurements.differences(sampled[reference, name][2]),
        )
        for (cell, name), (evaluations, points, measurements) in sampled.items()
    ]


def tabulate(compared: Sequence[ComparedCell]) -> dict[str, list[Any]]:
    """Arrange compared cells as the columns of a table, in the order of COLUMNS."""
    rows = [cell.row() for cell in compared]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def sample_cell(
    model: ModelUnderTest, sampler: Sampler, times: Sequence[float], denoiser: Denoiser, n: int
) -> tuple[Points, int]:
    """Draw n samples; returns them, in data units, and the evaluations used for each of them."""
    x, evaluations = draw_samples(
        sampler,
        denoiser,
        times,
        n=n,
        block=_BLOCK,
        seed=model.seed,
        device="cpu",
        clean=model.fresh(n, "compare/clean"),
    )
    return model.scaling.to_data(x.double()), evaluations
