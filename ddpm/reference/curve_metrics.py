"""Metrics of the position of samples relative to the curves of their data set, by name.

To add a metric, write a function of the projections onto the curves and enter it in CURVE_METRICS
at the end.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel
from ddpm.data.datasets import Dataset

Points = Float64[Tensor, "n 2"]


class Projections(NamedTuple):
    """Projections of points onto the curves, or the boxes, of a data set.

    Attributes:
        position: Position of the nearest point in [0, 1]; see `ddpm.data.datasets.Dataset.project`.
        distance: Distance to that point, data units.
    """

    position: Float64[Tensor, " n"]
    distance: Float64[Tensor, " n"]


def curve_rms(projections: Projections) -> float:
    """Root mean square of the distance to the curve, data units."""
    return math.sqrt(float(projections.distance.square().mean()))


def curve_ks(projections: Projections) -> float:
    """Kolmogorov-Smirnov distance of the positions from the uniform distribution.

    It is the supremum of |F_n - F| over [0, 1], with F_n the empirical distribution function. On a
    single curve the positions of true points are nearly uniform; where parts overlap, as in a tree,
    they are not, and only true sets say what to expect.
    """
    n = len(projections.position)
    positions = projections.position.sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - positions, positions - steps[:-1]).max())


def project(dataset: Dataset, sets: Sequence[Points]) -> list[Projections]:
    """Project sets of points, data units, onto the curves of a data set."""
    with tqdm(total=len(sets), desc="curve", unit="set", disable=None) as bar:

        def project_one(points: Points) -> Projections:
            projections = Projections(*dataset.project(points))
            bar.update()
            return projections

        return in_parallel(project_one, sets)


def measure_on_curve(
    samples: Projections, true_sets: Sequence[Projections]
) -> dict[str, dict[str, float]]:
    """Compute every metric in CURVE_METRICS for the samples and for true sets of the same size.

    Args:
        samples: Projections of samples of the model.
        true_sets: Projections of independent sets of true points, at least two.

    Returns:
        For each metric its `value` for the samples, and as `truth` and `truth_sd` its mean and
        standard deviation over the true sets.
    """
    metrics = {}
    for name, metric in CURVE_METRICS.items():
        true_values = [metric(projections) for projections in true_sets]
        metrics[name] = {
            "value": metric(samples),
            "truth": statistics.mean(true_values),
            "truth_sd": statistics.stdev(true_values),
        }
    return metrics


CURVE_METRICS: dict[str, Callable[[Projections], float]] = {
    "curve_rms": curve_rms,
    "curve_ks": curve_ks,
}
