"""Monte Carlo estimates: means with standard errors, and distances next to their floors."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

Points = Float64[Tensor, "n 2"]


class Mean(NamedTuple):
    """A mean over independent values, and its standard error."""

    value: float
    se: float


def mean_of(values: Float64[Tensor, " n"]) -> Mean:
    """Mean of at least two independent values."""
    return Mean(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance between two sets, and how each point contributes to its error.

    Attributes:
        value: The distance.
        x_influence: The distance's influence function at each point of the first set.
        y_influence: The same for the second set.
    """

    value: float
    x_influence: Float64[Tensor, " n"]
    y_influence: Float64[Tensor, " m"]

    @property
    def linear_se(self) -> float:
        """Standard error to first order, sqrt(var(f(x)) / n + var(g(y)) / m).

        Invalid when the two distributions coincide, because the first-order term vanishes.
        """
        return math.hypot(mean_of(self.x_influence).se, mean_of(self.y_influence).se)

    def minus(self, other: "Distance") -> Mean:
        """Difference of two distances to the same true set, with its standard error.

        The first sets should be paired, point by point: samplers that start from the same noise.
        What the two have in common then cancels, so that the standard error of the difference can
        be far smaller than either distance's own. Where both sets are close to the true
        distribution, the standard error is up to about twice too large.
        """
        x_se = mean_of(self.x_influence - other.x_influence).se
        y_se = mean_of(self.y_influence - other.y_influence).se
        return Mean(self.value - other.value, math.hypot(x_se, y_se))


class Estimate(NamedTuple):
    """A distance to a true set, together with its expected value for true samples.

    Attributes:
        value: The distance.
        se: Its standard error.
        floor: Mean distance within independent pairs of true sets of the same sizes.
    """

    value: float
    se: float
    floor: float


def estimate_distances(
    distance_to: Callable[[Points], Callable[[Points], Distance]],
    samples: Mapping[str, Points],
    truth: Points,
    pairs: Sequence[tuple[Points, Points]],
) -> dict[str, Estimate]:
    """Measure the distance from each of several sets to one true set.

    Args:
        distance_to: Maps a true set to a function that measures points against it; see
            `ddpm.reference.distances.DISTANCES`.
        samples: Sets of points by name.
        truth: A true set.
        pairs: At least two independent pairs of true sets of the same sizes, for the floor.
    """
    null = null_distances(distance_to, tqdm(pairs, desc="null", unit="pair", disable=None))
    distance = distance_to(truth)
    return {name: with_floor(distance(points), null) for name, points in samples.items()}


def null_distances(
    distance_to: Callable[[Points], Callable[[Points], Distance]],
    pairs: Iterable[tuple[Points, Points]],
) -> list[Distance]:
    """Measure the distance within each pair of true sets."""
    return [distance_to(y)(x) for x, y in pairs]


def with_floor(distance: Distance, null: Sequence[Distance]) -> Estimate:
    """Add the floor and a standard error to a distance between samples and a true set.

    Distances of samples from the true distribution scatter like the null distances. Their linear
    standard error is invalid, because the first-order term vanishes. The standard error is
    therefore the standard deviation of the null distances while the value is at most three of
    these above the floor, and otherwise the larger of that and the linear standard error. On
    spirals of 500 points, true or shifted by up to 0.1, the measured scatter was 0.88 to 1.25 times
    this standard error.

    Args:
        distance: Distance between the samples and a true set.
        null: Distances within at least two independent pairs of true sets of the same sizes.
    """
    values = torch.tensor([pair.value for pair in null], dtype=torch.float64)
    floor, null_se = float(values.mean()), float(values.std())
    stands_out = distance.value > floor + 3 * null_se
    return Estimate(
        value=distance.value,
        se=max(distance.linear_se, null_se) if stands_out else null_se,
        floor=floor,
    )
