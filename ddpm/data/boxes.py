"""Boxes in the plane with uniformly distributed points."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import sqrt

ExactPoints = Float64[Tensor, "n 2"]


@dataclass(frozen=True)
class Box:
    """The uniform distribution on [x_low, x_high] x [y_low, y_high], data units.

    Attributes:
        x: Lowest and highest x.
        y: Lowest and highest y.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def sample(self, n: int, noise: float, *, generator: torch.Generator) -> ExactPoints:
        """Draw n points, with noise added; see `ddpm.data.curves.Curve.sample`."""
        low, high = self._corners
        unit = torch.rand(n, 2, dtype=torch.float64, generator=generator)
        eps = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        points: Tensor = low + (high - low) * unit + noise * eps
        return points

    def project(self, x: ExactPoints) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Find the nearest point of the box for each x, which is x itself inside.

        Returns:
            The share of the box's area to the left of the nearest point, in [0, 1], and the
            distance to it in data units.
        """
        low, high = self._corners
        nearest = x.clamp(low, high)
        position = (nearest - low)[:, 0] / (high - low)[0]
        return position, sqrt((x - nearest).square().sum(1))

    @property
    def _corners(self) -> tuple[Float64[Tensor, "2"], Float64[Tensor, "2"]]:
        low, high = torch.tensor([self.x, self.y], dtype=torch.float64).T
        return low, high
