"""Distances between two sets of points, by name.

All are pure functions in float64. To add one, write a function of two sets and enter it in
DISTANCES at the end.

References:
    Szekely & Rizzo 2013 (energy distance), https://doi.org/10.1016/j.jspi.2013.03.018
    Bonneel et al. 2015 (sliced Wasserstein distance), https://doi.org/10.1007/s10851-014-0506-3
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import distances, in_parallel
from ddpm.core.params import MeasureSamplesSettings
from ddpm.reference.estimates import Distance

Points = Float64[Tensor, "n 2"]
OtherPoints = Float64[Tensor, "m 2"]

# Rows of distances that a thread computes at once: with 10,000 columns they fit its cache.
_ROWS = 16
# Rows in one task of a thread; a multiple of _ROWS.
_BLOCK = 1024
_DIRECTIONS_AT_ONCE = 16


def energy_distance(
    x: Points, y: OtherPoints, y_within: Float64[Tensor, " m"] | None = None
) -> Distance:
    """Unbiased energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|.

    It is a U-statistic: no point is compared with itself, so that independent sets from the same
    distribution give 0 on average. Their distances are skewed, and more than half are negative.

    Args:
        x: At least two points.
        y: At least two points.
        y_within: `mean_distances_within(y)`, to save time when it is already known.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 1000, 2, dtype=torch.float64, generator=generator)
        >>> energy_distance(x, y).value < 0.01 < energy_distance(x, y + 1).value
        True

    References:
        Szekely & Rizzo 2013, eq. 6 (biased there, because it includes the diagonal).
    """
    x_to_y, y_to_x = _mean_distances(x, y)
    x_to_x = mean_distances_within(x)
    y_to_y = mean_distances_within(y) if y_within is None else y_within
    value = 2 * x_to_y.mean() - x_to_x.mean() - y_to_y.mean()
    # The influence of each point of x and of each point of y on the value.
    f, g = 2 * (x_to_y - x_to_x), 2 * (y_to_x - y_to_y)
    return Distance(float(value), f, g)


def _mean_distances(
    x: Points, y: OtherPoints
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
    """Mean distance from each x to all y and from each y to all x, in bounded memory."""

    def sums(block: Points) -> tuple[Tensor, Tensor]:
        by_row, by_column = [], torch.zeros(len(y), dtype=torch.float64)
        for rows in block.split(_ROWS):
            block_distances = distances(rows, y)
            by_row.append(block_distances.sum(1))
            by_column += block_distances.sum(0)
        return torch.cat(by_row), by_column

    by_row, by_column = zip(*in_parallel(sums, x.split(_BLOCK)), strict=True)
    return torch.cat(by_row) / len(y), torch.stack(by_column).sum(0) / len(x)


def mean_distances_within(x: Points) -> Float64[Tensor, " n"]:
    """Mean distance from each point to all others. The distance of each pair is computed once."""

    def sums(block: range) -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64)
        for start in block[::_ROWS]:
            stop = min(start + _ROWS, len(x))
            block_distances = distances(x[start:stop], x[start:])
            total[start:stop] += block_distances.sum(1)
            total[stop:] += block_distances[:, stop - start :].sum(0)
        return total

    starts = range(len(x))
    blocks = [starts[k : k + _BLOCK] for k in starts[::_BLOCK]]
    return torch.stack(in_parallel(sums, blocks)).sum(0) / (len(x) - 1)


def sliced_wasserstein(x: Points, y: OtherPoints, directions: int) -> Distance:
    """Sliced 2-Wasserstein distance: root of the mean of W_2^2 over evenly spaced directions.

    Along one direction, W_2^2 is the mean squared difference of the sorted projections. Its
    influence function is the Kantorovich potential. Between neighbouring sorted projections p it
    grows by 2 (p - q) dp, where q is the projection paired with p.

    Args:
        x: Points.
        y: The same number of points.
        directions: Number of directions, evenly spaced over the half circle.

    Raises:
        ValueError: If the sets differ in size.

    Example:
        >>> x = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> shift = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> round(sliced_wasserstein(x, x + shift, directions=64).value, 4)  # 1 / sqrt(2)
        0.7071

    References:
        del Barrio & Loubes 2019 (influence function), https://doi.org/10.1214/18-AOP1275
    """
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} points and y has {len(y)}; pass sets of the same size")
    angles = math.pi / directions * (torch.arange(directions, dtype=torch.float64) + 0.5)
    axes = torch.stack((angles.cos(), angles.sin()), dim=1)

    def sums(axes: Float64[Tensor, "k 2"]) -> tuple[Tensor, Tensor, Tensor]:
        p, p_order = (axes[:, :1] * x[:, 0] + axes[:, 1:] * x[:, 1]).sort(1)
        q, q_order = (axes[:, :1] * y[:, 0] + axes[:, 1:] * y[:, 1]).sort(1)
        return (
            (p - q).square().mean(1).sum(),
            torch.zeros_like(p).scatter_(1, p_order, _potential(p, q)).sum(0),
            torch.zeros_like(q).scatter_(1, q_order, _potential(q, p)).sum(0),
        )

    parts = zip(*in_parallel(sums, axes.split(_DIRECTIONS_AT_ONCE)), strict=True)
    squared, f, g = (torch.stack(part).sum(0) / directions for part in parts)
    value = math.sqrt(float(squared))
    # The derivative of the square root; the distance of a set from itself has no error.
    slope = 1 / (2 * value) if value else 0.0
    return Distance(value, slope * f, slope * g)


def _potential(p: Float64[Tensor, "k n"], q: Float64[Tensor, "k n"]) -> Float64[Tensor, "k n"]:
    """Kantorovich potential at sorted p paired with sorted q, up to a constant."""
    slope = p - q
    growth = (slope[:, 1:] + slope[:, :-1]) * p.diff(dim=1)
    return torch.nn.functional.pad(growth.cumsum(1), (1, 0))


class DistanceTo(Protocol):
    """Maps a true set and the settings to a function that measures samples against the set."""

    def __call__(
        self, truth: Points, settings: MeasureSamplesSettings
    ) -> Callable[[Points], Distance]:
        """Return the distance to a true set, as a function of samples."""


DISTANCES: dict[str, DistanceTo] = {
    "energy_distance": lambda truth, settings: partial(  # noqa: ARG005 - the energy distance has none
        energy_distance, y=truth, y_within=mean_distances_within(truth)
    ),
    "sliced_wasserstein": lambda truth, settings: partial(
        sliced_wasserstein, y=truth, directions=settings.directions
    ),
}
