"""Metrics of the position of samples relative to the curve of their data set, by name.

To add a metric, write a function of the projections onto the curve and enter it in CURVE_METRICS at
the end.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.data.curves import Curve

Points = Float64[Tensor, "n 2"]


class Projections(NamedTuple):
    """Projections of points onto a curve.

    Attributes:
        curve: The curve.
        u: Parameter of the nearest point of the curve.
        distance: Distance to that point, data units.
    """

    curve: Curve
    u: Float64[Tensor, " n"]
    distance: Float64[Tensor, " n"]


def curve_rms(projections: Projections) -> float:
    """Root mean square of the distance to the curve, data units."""
    return math.sqrt(float(projections.distance.square().mean()))


def curve_ks(projections: Projections) -> float:
    """Kolmogorov-Smirnov distance of the position along the curve from the uniform distribution."""
    return projections.curve.uniformity(projections.u)


def project(curve: Curve, sets: Sequence[Points]) -> list[Projections]:
    """Project sets of points, data units, onto a curve."""
    bar = tqdm(sets, desc="curve", unit="set", disable=None)
    return [Projections(curve, *curve.project(points)) for points in bar]


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
