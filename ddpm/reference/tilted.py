"""The tilted distribution that guidance is said to sample, on a grid, and its diffusion.

    p_tilted(x) = p(x | y)^scale p(x)^(1 - scale) / Z

is known at t = 0 up to Z, the integral over the plane: a sum over a grid whose spacing is a third
of the noise, which converges geometrically for scales up to 5 or so. At t > 0, its diffused density
is an integral as well,

    p_t(x_t) = E_z p_tilted(x_0) / a^2,  x_0 = (x_t + sigma_t z) / a,  z ~ N(0, I)

with a = sqrt(alpha_bar_t). It is the sum over the grid where sigma_ve is at least 0.9 spacings, and
otherwise a Gauss-Hermite rule with 7 x 7 nodes z around each point. With the posterior moments
m = E[z | x_t] and C = Cov[z | x_t],

    eps_hat = -m,  x0_hat = (x_t + sigma_t m) / a,  d eps_hat / d x_t = (I - C) / sigma_t

The denoiser is a control: a sampler that uses it does arrive at the tilted distribution.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import in_parallel, log
from ddpm.core.errors import UserError
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.reference.distribution import ExactDistribution

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]
Matrices = Float64[Tensor, "n 2 2"]

# Spacing of the grid, in standard deviations of the noise, and how far it goes beyond the data.
_SPACING, _BEYOND = 1 / 3, 6.0
_GRID_FROM = 0.9
# Largest probability of the outermost cells.
_MAX_EDGE = 1e-6
# The positive nodes of the rule with 7 nodes for the weight exp(-z^2 / 2), and all weights.
_HERMITE = (1.154405394739968, 2.366759410734541, 3.750439717725742)
_HERMITE_WEIGHTS = (
    0.4571428571428571,
    0.2401231786050127,
    0.0307571239675865,
    0.0005482688559722178,
)
# Points in one task of a thread.
_BLOCK = 500


@dataclass(frozen=True)
class TiltedDistribution:
    """p(x | y)^scale p(x)^(1 - scale) / Z of labelled data, in model units.

    Attributes:
        exact: Exact distribution of the data, with labels.
        label: The label y.
        scale: 1 is the conditional distribution, 0 the whole.

    Raises:
        UserError: If there is no such label, or the data have no noise.
    """

    exact: ExactDistribution
    label: int
    scale: float

    def __post_init__(self) -> None:
        self.exact.given(self.label)
        if not self.exact.noise > 0:
            raise UserError("the noise is 0, so that the data have no density; choose data with it")

    def log_density(self, x: Points) -> PerPoint:
        """Evaluate log p_tilted at t = 0, in nats with respect to model units."""
        return self._unnormalised(x) - self._log_normaliser

    @cached_property
    def side(self) -> Float64[Tensor, " k"]:
        """Coordinates of the grid along either axis."""
        # How far the data reach, from points of their own.
        x = self.exact.sample(4000, 0, generator=torch.Generator().manual_seed(0))
        reach = float(x.abs().max()) + _BEYOND * self.exact.noise
        step = _SPACING * self.exact.noise
        half = math.ceil(reach / step)
        return step * torch.arange(-half, half + 1, dtype=torch.float64)

    @cached_property
    def grid(self) -> Float64[Tensor, "k2 2"]:
        """Points of the grid; the first coordinate changes slowest."""
        return torch.cartesian_prod(self.side, self.side)

    @cached_property
    def weights(self) -> Float64[Tensor, " k2"]:
        """Probability of the cell around each point of the grid.

        Raises:
            UserError: If much of it lies at the edge: with a negative scale there may be no limit.
        """
        weights = torch.softmax(self._on_grid, 0)
        square = weights.view(len(self.side), -1)
        edge = 1 - float(square[1:-1, 1:-1].sum())
        if not edge < _MAX_EDGE:
            raise UserError(
                f"with the scale {self.scale:g} the tilted distribution reaches to the edge of the"
                " grid, where no data are; choose another scale"
            )
        return weights

    @cached_property
    def region_mass(self) -> Float64[Tensor, " k2"]:
        """Mass of the region in which the density is higher, for each point of the grid.

        The region of highest density that holds 99 % is where this is below 0.99.
        """
        order = self.weights.argsort(descending=True)
        mass = torch.empty_like(self.weights)
        mass[order] = self.weights[order].cumsum(0)
        return mass

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, with respect to model units."""
        return -float(self.weights @ (self._on_grid - self._log_normaliser))

    def sample(self, n: int, *, generator: torch.Generator) -> Points:
        """Draw n points: cells of the grid by their probability, and uniformly inside of them."""
        step = float(self.side[1] - self.side[0])
        cells = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        inside = torch.rand(n, 2, dtype=torch.float64, generator=generator) - 0.5
        return self.grid[cells] + step * inside

    def mean(self, values: PerPoint) -> float:
        """Mean of a function that is given at the points of the grid."""
        return float(self.weights @ values)

    @property
    def denoiser(self) -> Denoiser:
        """The optimal denoiser for data of this distribution."""
        return Denoiser(_Velocity(self), PREDICTIONS["v"], self.exact.schedule, torch.float64)

    @cached_property
    def _on_grid(self) -> Float64[Tensor, " k2"]:
        return self._unnormalised(self.grid)

    @cached_property
    def _log_normaliser(self) -> float:
        step = float(self.side[1] - self.side[0])
        largest = float(self._on_grid.max())
        return largest + math.log(float((self._on_grid - largest).exp().sum())) + 2 * math.log(step)

    def _unnormalised(self, x: Points) -> PerPoint:
        given, whole = self.exact.given(self.label), self.exact
        return self.scale * given.log_density(x, 0) + (1 - self.scale) * whole.log_density(x, 0)

    def moments(self, x_t: Points, t: float) -> tuple[Points, Matrices]:
        """Mean and covariance of z given x_t, see the module; t is above 0."""
        a, sigma = self.exact.schedule.levels(t)
        step = float(self.side[1] - self.side[0])
        method = self._by_grid if sigma >= _GRID_FROM * step * a else self._by_hermite
        blocks = in_parallel(lambda x: method(x, a, sigma), x_t.split(_BLOCK))
        means, squares = (torch.cat(part) for part in zip(*blocks, strict=True))
        return means, squares - means[:, :, None] * means[:, None, :]

    def _by_grid(self, x_t: Points, a: float, sigma: float) -> tuple[Points, Matrices]:
        # The Gaussian weight is a product of one for each axis: the sum is a matrix product.
        z = (a * self.side - x_t[..., None]) / sigma
        exponent = -z.square() / 2
        weight = (exponent - exponent.amax(-1, keepdim=True)).exp()
        powers = torch.stack((weight, weight * z, weight * z.square()))
        probabilities = self.weights.view(len(self.side), -1)
        first = (powers[:, :, 0] @ probabilities)[:, None] * powers[None, :, :, 1]
        sums = first.sum(-1)
        return _mean_and_square(sums)

    def _by_hermite(self, x_t: Points, a: float, sigma: float) -> tuple[Points, Matrices]:
        nodes = torch.tensor(
            [*(-z for z in reversed(_HERMITE)), 0.0, *_HERMITE], dtype=torch.float64
        )
        first, *others = _HERMITE_WEIGHTS
        weights = torch.tensor([*reversed(others), first, *others], dtype=torch.float64)
        z = torch.cartesian_prod(nodes, nodes)
        x0 = (x_t[:, None] + sigma * z) / a
        logs = self._unnormalised(x0.flatten(0, 1)).view(len(x_t), -1)
        joint = torch.softmax(logs + log(torch.outer(weights, weights).flatten()), 1)
        joint = joint.view(-1, len(nodes), len(nodes))
        powers = torch.stack((torch.ones_like(nodes), nodes, nodes.square()))
        return _mean_and_square(torch.einsum("nij,pi,qj->pqn", joint, powers, powers))


def _mean_and_square(sums: Float64[Tensor, "3 3 n"]) -> tuple[Points, Matrices]:
    """E z and E z z' from the sums of z_1^p z_2^q."""
    moments = sums / sums[0, 0]
    mean = torch.stack((moments[1, 0], moments[0, 1]), dim=1)
    squares = torch.stack((moments[2, 0], moments[1, 1], moments[1, 1], moments[0, 2]), dim=1)
    return mean, squares.unflatten(1, (2, 2))


@dataclass(frozen=True)
class _Velocity:
    """E[v | x_t] of the diffused tilted distribution, as a function with a derivative."""

    tilted: TiltedDistribution

    def __call__(self, x_t: Points, t: Float64[Tensor, "1"]) -> Points:
        return self.with_jacobian(x_t, t)[0]

    def with_jacobian(self, x_t: Points, t: Float64[Tensor, "1"]) -> tuple[Points, Matrices]:
        a, sigma = self.tilted.exact.schedule.levels(float(t))
        if sigma == 0:
            return torch.zeros_like(x_t), torch.zeros(len(x_t), 2, 2, dtype=x_t.dtype)
        mean, covariance = self.tilted.moments(x_t, float(t))
        identity = torch.eye(2, dtype=x_t.dtype)
        slope = (covariance - identity) / sigma
        # v = a eps_hat - sigma x0_hat, with a^2 + sigma^2 = 1.
        return -(mean + sigma * x_t) / a, -(slope + sigma * identity) / a
