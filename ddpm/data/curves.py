"""Curves in the plane, scaled to the square [-1, 1]^2, and the nearest point on them.

A curve is scaled per axis, by its own exact extent or by that of the data set that it is a part of.
The extent of a sample would make the distribution of the points depend on that sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import distances, sqrt

Parameters = Float64[Tensor, " n"]
ExactPoints = Float64[Tensor, "n 2"]

# Nodes of the grid on which a minimum is first looked for.
_GRID = 4001
# Points whose distances to the grid are computed at once: they fit the cache of a core.
_ROWS = 40
_GOLDEN = (math.sqrt(5) - 1) / 2
# The bracket, at first two cells of the grid, shrinks by 0.618 a step: after 60 steps it is below
# the spacing of float64.
_GOLDEN_STEPS = 60


@dataclass(frozen=True)
class Curve:
    """A curve in the plane, scaled per axis to [-1, 1], with u uniform on [u_min, u_max].

    Attributes:
        raw: The curve before scaling, shape (n,) to (n, 2), float64.
        u_min: Start of the parameter's range.
        u_max: End of the parameter's range.
        frame: The raw coordinates, as (lowest x, lowest y) and (highest x, highest y), that are
            mapped to -1 and 1. By default, those of the curve itself.
    """

    raw: Callable[[Parameters], ExactPoints]
    u_min: float
    u_max: float
    frame: tuple[tuple[float, float], tuple[float, float]] | None = None

    @cached_property
    def extent(self) -> tuple[Float64[Tensor, "2"], Float64[Tensor, "2"]]:
        """Smallest and largest raw coordinate of each axis, exact to rounding."""
        grid = self._grid
        low: list[Tensor] = []
        high: list[Tensor] = []
        for axis in (0, 1):
            for sign, extremes in ((1.0, low), (-1.0, high)):

                def signed(u: Parameters, axis: int = axis, sign: float = sign) -> Parameters:
                    return sign * self.raw(u)[:, axis]

                u = self._refine(signed, grid[signed(grid).argmin()].reshape(1))
                extremes.append(self.raw(u)[0, axis])
        return torch.stack(low), torch.stack(high)

    @cached_property
    def length_bound(self) -> float:
        """Length that the scaled curve would have at its greatest speed |dc/du|, data units.

        At least the length of the curve, up to the resolution of the grid.
        """
        chords = self.points(self._grid).diff(dim=0).square().sum(1)
        return math.sqrt(float(chords.max())) * (_GRID - 1)

    def points(self, u: Parameters) -> ExactPoints:
        """Points of the scaled curve at the parameters u, data units."""
        low, high = torch.tensor(self.frame).double() if self.frame else self.extent
        return (2 * self.raw(u) - (low + high)) / (high - low)

    def sample(self, n: int, noise: float, *, generator: torch.Generator) -> ExactPoints:
        """Draw n points around the curve, with u uniform on [u_min, u_max].

        Args:
            n: Number of points.
            noise: Standard deviation of the noise around the curve, data units; 0 is allowed.
            generator: Source of the random numbers.

        Returns:
            Points in data units, float64.
        """
        unit = torch.rand(n, dtype=torch.float64, generator=generator)
        points = self.points(self.u_min + (self.u_max - self.u_min) * unit)
        return points + noise * torch.randn(n, 2, dtype=torch.float64, generator=generator)

    def project(self, x: ExactPoints) -> tuple[Parameters, Parameters]:
        """Find the nearest point on the curve for each x.

        The nearest node of a grid is refined by golden-section search, so that u is accurate to
        about 1e-7.

        Args:
            x: Points, data units.

        Returns:
            The position of the nearest point along the curve, (u - u_min) / (u_max - u_min), and
            the distance to it in data units.
        """
        grid = self._grid
        nodes = self.points(grid)
        nearest = torch.cat([distances(block, nodes).argmin(1) for block in x.split(_ROWS)])

        def squared(u: Parameters) -> Parameters:
            return (self.points(u) - x).square().sum(1)

        u = self._refine(squared, grid[nearest])
        return (u - self.u_min) / (self.u_max - self.u_min), sqrt(squared(u))

    @property
    def _grid(self) -> Parameters:
        return torch.linspace(self.u_min, self.u_max, _GRID, dtype=torch.float64)

    def _refine(self, f: Callable[[Parameters], Parameters], u: Parameters) -> Parameters:
        """Minimise f by golden-section search, within one grid cell to either side of each u."""
        cell = (self.u_max - self.u_min) / (_GRID - 1)
        low = (u - cell).clamp(min=self.u_min)
        high = (u + cell).clamp(max=self.u_max)
        for _ in range(_GOLDEN_STEPS):
            left = high - _GOLDEN * (high - low)
            right = low + _GOLDEN * (high - low)
            decreasing = f(right) < f(left)
            low, high = torch.where(decreasing, left, low), torch.where(decreasing, high, right)
        # The minimum may be at an end of the range, where golden-section search never evaluates f.
        candidates = torch.stack((low, (low + high) / 2, high))
        best = torch.stack([f(candidate) for candidate in candidates]).argmin(0, keepdim=True)
        return candidates.gather(0, best)[0]
