"""Points on a curve with Gaussian noise around them: data whose distribution is known.

    x = c(u) + noise * e,  u uniform on [u_min, u_max],  e ~ N(0, I)

The curve is scaled per axis to [-1, 1] by its own exact extent, not by the extent of a sample, so
that the distribution depends on no sample.

References:
    The spiral is the blog's: Lior Sinai, "Denoising diffusion probabilistic models from first
    principles", part 1.
    https://liorsinai.github.io/machine-learning/2022/12/03/denoising-diffusion-1-spiral.html
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.errors import UserError
from ddpm.runtime import distances, sqrt

Parameters = Float64[Tensor, " n"]
ExactPoints = Float64[Tensor, "n 2"]

_GRID = 4001
_GOLDEN = (math.sqrt(5) - 1) / 2
# The bracket shrinks by 0.618 a step: 60 steps take two cells of the grid below float64's spacing.
_GOLDEN_STEPS = 60


@dataclass(frozen=True)
class Curve:
    """A curve in the plane, scaled per axis to [-1, 1], with u uniform on [u_min, u_max].

    Attributes:
        raw: The curve before scaling, shape (n,) to (n, 2), float64.
        u_min: Start of the parameter's range.
        u_max: End of the parameter's range.
    """

    raw: Callable[[Parameters], ExactPoints]
    u_min: float
    u_max: float

    @cached_property
    def extent(self) -> tuple[Float64[Tensor, "2"], Float64[Tensor, "2"]]:
        """Smallest and largest raw coordinate of each axis, exact to rounding."""
        grid = self._grid
        low: list[Tensor] = []
        high: list[Tensor] = []
        for axis in (0, 1):
            for sign, found in ((1.0, low), (-1.0, high)):

                def height(u: Parameters, axis: int = axis, sign: float = sign) -> Parameters:
                    return sign * self.raw(u)[:, axis]

                u = self._refine(height, grid[height(grid).argmin()].reshape(1))
                found.append(self.raw(u)[0, axis])
        return torch.stack(low), torch.stack(high)

    @cached_property
    def length_bound(self) -> float:
        """Length that the scaled curve would have at its greatest speed, data units."""
        chords = self.points(self._grid).diff(dim=0).square().sum(1)
        return math.sqrt(float(chords.max())) * (_GRID - 1)

    def points(self, u: Parameters) -> ExactPoints:
        """Points of the scaled curve at the parameters u."""
        low, high = self.extent
        return (2 * self.raw(u) - (low + high)) / (high - low)

    def sample(self, n: int, noise: float, *, generator: torch.Generator) -> ExactPoints:
        """Draw n points.

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
        """Nearest point of the curve.

        Args:
            x: Points, data units.

        Returns:
            Its parameter u in [u_min, u_max], and the distance to it in data units. The nearest
            node of a grid is refined by golden-section search: u is good to about 1e-7.
        """
        grid = self._grid
        nodes = self.points(grid)
        nearest = torch.cat([distances(block, nodes).argmin(1) for block in x.split(1024)])

        def squared(u: Parameters) -> Parameters:
            return (self.points(u) - x).square().sum(1)

        u = self._refine(squared, grid[nearest])
        return u, sqrt(squared(u))

    def uniformity(self, u: Parameters) -> float:
        """Kolmogorov-Smirnov distance between the empirical distribution of u and the uniform.

        The supremum of |F_n - F| over [u_min, u_max], in [0, 1].
        """
        n = len(u)
        uniform = ((u - self.u_min) / (self.u_max - self.u_min)).sort().values
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        return float(torch.maximum(steps[1:] - uniform, uniform - steps[:-1]).max())

    @property
    def _grid(self) -> Parameters:
        return torch.linspace(self.u_min, self.u_max, _GRID, dtype=torch.float64)

    def _refine(self, f: Callable[[Parameters], Parameters], u: Parameters) -> Parameters:
        """Minimise f near each grid node u, within one cell to either side, by golden section."""
        cell = (self.u_max - self.u_min) / (_GRID - 1)
        low = (u - cell).clamp(min=self.u_min)
        high = (u + cell).clamp(max=self.u_max)
        for _ in range(_GOLDEN_STEPS):
            left = high - _GOLDEN * (high - low)
            right = low + _GOLDEN * (high - low)
            falls = f(right) < f(left)
            low, high = torch.where(falls, left, low), torch.where(falls, high, right)
        # The ends of the range may be the minimum itself, and golden section never tries them.
        candidates = torch.stack((low, (low + high) / 2, high))
        best = torch.stack([f(candidate) for candidate in candidates]).argmin(0, keepdim=True)
        return candidates.gather(0, best)[0]


def _spiral(u: Parameters) -> ExactPoints:
    return torch.stack((u * torch.cos(u), u * torch.sin(u)), dim=1)


SPIRAL = Curve(raw=_spiral, u_min=1.5 * math.pi, u_max=4.5 * math.pi)


@dataclass(frozen=True)
class Scaling:
    """Between data units x and model units z = (x - mean) / scale.

    One scalar scale for both axes, so that isotropic noise stays isotropic.

    Attributes:
        mean: Centre of the training points, shape (2,), data units, float64.
        scale: Root mean square over both axes of their standard deviation, data units.
    """

    mean: Float64[Tensor, "2"]
    scale: float

    @classmethod
    def of(cls, points: Float[Tensor, "n 2"]) -> "Scaling":
        """The scaling that gives the points mean 0 and mean squared norm 2.

        Raises:
            UserError: If the points are all the same, or too large to square.
        """
        exact = points.double()
        mean = exact.mean(0)
        scale = math.sqrt(float((exact - mean).square().mean()))
        if not (0 < scale < math.inf):
            raise UserError(
                f"the training points have a standard deviation of {scale:g}, and cannot be scaled;"
                " make them again with `dvc repro generate`"
            )
        return cls(mean, scale)

    @property
    def log_jacobian(self) -> float:
        """What to add to a log density in model units to have it in data units."""
        return -len(self.mean) * math.log(self.scale)

    def to_model(self, x: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Data units to model units, in the precision of x."""
        return (x - self.mean.to(x)) / self.scale

    def to_data(self, z: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Model units to data units, in the precision of z."""
        return self.mean.to(z) + self.scale * z
