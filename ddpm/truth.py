"""The exact truth: density, score and posterior mean of the data at every noise level.

The data are a mixture: x_0 = c + noise e with c on a curve (or one of a list of points) and
e ~ N(0, I). Then p_t is a mixture as well, one integral over the curve:

    p_t(x)       = E_c N(x; a c, V I),  a = sqrt(alpha_bar_t),  V = a^2 noise^2 + sigma_t^2
    score        = grad log p_t(x) = (a E[c | x] - x) / V
    E[x_0 | x]   = (sigma_t^2 E[c | x] + a noise^2 x) / V
    v            = a E[eps | x] - sigma_t E[x_0 | x],  E[eps | x] = -sigma_t score

Nothing that is returned is divided by a or by sigma_t: both ends of the process are as exact as its
middle. All is float64, in model units.

Quadrature: Gauss-Legendre with 16 nodes on panels of equal length in u. A panel is no longer, on
the curve, than 8/3 standard deviations sqrt(V), and no longer than an eighth of u's range. On the
spiral, with sqrt(V) of 0.001 or more, p_t is then exact to 1e-9 (relative) within ten standard
deviations of the curve, which the tests hold it to; further out the nearest nodes still give
log p_t to a few parts in a thousand. A curve that turns many times in one panel would need more.

References:
    Robbins 1956, Efron 2011 (Tweedie's formula), https://doi.org/10.1198/jasa.2011.tm11181
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.datasets import Curve, Scaling
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.runtime import in_parallel, log
from ddpm.schedules import Schedule

Points = Float64[Tensor, "n 2"]
Each = Float64[Tensor, " n"]

_NODES = 16
_LONGEST = 8 / 3
_FEWEST_PANELS = 8
# Numbers of a block of (points, nodes) that fit a core's cache.
_BLOCK = 2**16
# Sets of nodes kept for the next call; a solver asks at a few noise levels again and again.
_KEPT = 64
# Points that one thread takes on at a time.
_SHARE = 1000


class Nodes(NamedTuple):
    """What c may be: places, model units, and the logarithms of their weights, which sum to 1."""

    places: Float64[Tensor, "m 2"]
    log_weights: Float64[Tensor, " m"]


class Moments(NamedTuple):
    """Of the mixture at x: log p_t(x), and E[c | x]."""

    log_density: Each
    centre: Points


@dataclass(frozen=True)
class Truth:
    """The law of x_t for data whose law is known.

    Attributes:
        nodes: The longest that a panel of the curve may be, model units, to nodes that keep to it.
        draw: A number of places c and a generator, to places drawn at random, model units.
        noise: Standard deviation of the noise around the nodes, model units; 0 is allowed.
        schedule: Supplies alpha_bar.
    """

    nodes: Callable[[float], Nodes]
    draw: Callable[[int, torch.Generator], Points]
    noise: float
    schedule: Schedule

    @classmethod
    def of_curves(
        cls,
        curves: Sequence[tuple[float, Curve]],
        noise: float,
        scaling: Scaling,
        schedule: Schedule,
    ) -> "Truth":
        """The truth of points on curves, u uniform on each, with noise around them.

        Args:
            curves: Weights, which sum to 1, and curves.
            noise: Standard deviation of the noise around them, data units.
            scaling: To model units.
            schedule: Supplies alpha_bar.
        """
        lengths = [curve.length_bound / scaling.scale for _, curve in curves]
        made: dict[tuple[int, ...], Nodes] = {}

        def nodes(longest: float) -> Nodes:
            panels = tuple(max(_FEWEST_PANELS, math.ceil(one / longest)) for one in lengths)
            if panels not in made:
                if len(made) >= _KEPT:
                    made.clear()
                parts = [
                    _quadrature(curve, weight, count)
                    for (weight, curve), count in zip(curves, panels, strict=True)
                ]
                places, log_weights = (torch.cat(part) for part in zip(*parts, strict=True))
                made[panels] = Nodes(scaling.to_model(places), log_weights)
            return made[panels]

        def draw(n: int, generator: torch.Generator) -> Points:
            ends = torch.tensor([weight for weight, _ in curves], dtype=torch.float64).cumsum(0)
            which = torch.bucketize(
                torch.rand(n, dtype=torch.float64, generator=generator), ends[:-1]
            )
            places = torch.empty(n, 2, dtype=torch.float64)
            for k, (_, curve) in enumerate(curves):
                chosen = which == k
                places[chosen] = curve.sample(int(chosen.sum()), 0.0, generator=generator)
            return scaling.to_model(places)

        return cls(nodes, draw, noise / scaling.scale, schedule)

    @classmethod
    def of_points(cls, points: Float[Tensor, "n 2"], schedule: Schedule) -> "Truth":
        """The law of points drawn from a list: what a model that has learned it by heart knows.

        Args:
            points: The list, model units.
            schedule: Supplies alpha_bar.
        """
        log_weights = torch.full((len(points),), -math.log(len(points)), dtype=torch.float64)
        nodes = Nodes(points.double(), log_weights)

        def draw(n: int, generator: torch.Generator) -> Points:
            return nodes.places[torch.randint(len(points), (n,), generator=generator)]

        return cls(lambda _: nodes, draw, 0.0, schedule)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Points:
        """Draw n points of p_t exactly: x_t = a (c + noise e) + sigma_t eps, model units."""
        a, sigma = self.schedule.levels(t)
        places = self.draw(n, generator)
        e, eps = torch.randn(2, n, 2, dtype=torch.float64, generator=generator)
        x_t: Tensor = a * (places + self.noise * e) + sigma * eps
        return x_t

    def log_density(self, x_t: Points, t: float) -> Each:
        """Value of log p_t(x_t), nats, with respect to model units.

        Args:
            x_t: Points, model units.
            t: Time in [0, T]; without noise around the nodes p_0 is singular, and t must not be 0.
        """
        blocks = in_parallel(lambda x: self._moments(x, t).log_density, x_t.split(_SHARE))
        return torch.cat(blocks)

    def score(self, x_t: Points, t: float) -> Points:
        """Gradient of log p_t at x_t; see `log_density`."""
        a, sigma = self.schedule.levels(t)
        return (a * self._moments(x_t, t).centre - x_t) / self._variance(a, sigma)

    def posterior_mean(self, x_t: Points, t: float) -> Points:
        """E[x_0 | x_t], model units: the denoiser with the least squared error."""
        a, sigma = self.schedule.levels(t)
        centre = self._moments(x_t, t).centre
        return (sigma**2 * centre + a * self.noise**2 * x_t) / self._variance(a, sigma)

    def velocity(self, x_t: Points, t: Float64[Tensor, " #n"]) -> Points:
        """E[v | x_t], called as a network is: with one time for all points or one for each."""
        if len(t) > 1:
            v = torch.empty_like(x_t)
            for time in t.unique():
                v[t == time] = self.velocity(x_t[t == time], time[None])
            return v
        a, sigma = self.schedule.levels(float(t))
        centre, variance = self._moments(x_t, float(t)).centre, self._variance(a, sigma)
        # a E[eps | x] - sigma E[x_0 | x], with what the two have in common cancelled by hand.
        return sigma * (a * (1 - self.noise**2) * x_t - centre) / variance

    @property
    def denoiser(self) -> Denoiser:
        """The best possible denoiser, in place of a network."""
        finite = self.noise > 0
        return Denoiser(self.velocity, PREDICTIONS["v"], self.schedule, torch.float64, finite)

    def _variance(self, a: float, sigma: float) -> float:
        return (a * self.noise) ** 2 + sigma**2

    def _moments(self, x_t: Points, t: float) -> Moments:
        a, sigma = self.schedule.levels(t)
        variance = self._variance(a, sigma)
        # Without any signal every node is at the same place.
        nodes = self.nodes(_LONGEST * math.sqrt(variance) / a if a > 0 else math.inf)
        places = a * nodes.places
        bias = nodes.log_weights - places.square().sum(1) / (2 * variance)
        slopes = (places / variance).T
        rows = max(1, _BLOCK // len(places))
        parts = [_block(x, slopes, bias, nodes.places) for x in x_t.split(rows)]
        log_sum, centre = (torch.cat(part) for part in zip(*parts, strict=True))
        constant = math.log(2 * math.pi * variance)
        return Moments(log_sum - x_t.square().sum(1) / (2 * variance) - constant, centre)


def _block(
    x: Points, slopes: Float64[Tensor, "2 m"], bias: Float64[Tensor, " m"], places: Tensor
) -> Moments:
    """Logarithm of sum_j exp(x . slope_j + bias_j), and the places' mean weighted so."""
    exponents = torch.addmm(bias, x, slopes)
    largest = exponents.detach().amax(1, keepdim=True)
    terms = (exponents - largest).exp()
    total = terms.sum(1)
    return Moments(largest[:, 0] + log(total), terms @ places / total[:, None])


def _quadrature(curve: Curve, weight: float, panels: int) -> Nodes:
    """Gauss-Legendre nodes on equal panels of u, data units; the weights sum to `weight`."""
    nodes, weights = _gauss_legendre(_NODES)
    width = (curve.u_max - curve.u_min) / panels
    middles = curve.u_min + width * (torch.arange(panels, dtype=torch.float64) + 0.5)
    u = middles[:, None] + width / 2 * nodes
    # They sum to 2 on each panel.
    log_weights = log(weights * (weight / (2 * panels))).repeat(panels)
    return Nodes(curve.points(u.flatten()), log_weights)


def _gauss_legendre(n: int) -> tuple[Each, Each]:
    """Nodes and weights on [-1, 1], by Newton's method on Legendre's polynomial of even degree n.

    NumPy's come from an eigenvalue solver, whose last bits depend on the processor.
    """
    nodes, weights = [], []
    for k in range(n // 2):
        x = math.cos(math.pi * (k + 0.75) / (n + 0.5))
        for _ in range(10):
            before, value = 1.0, x
            for degree in range(2, n + 1):
                before, value = (
                    value,
                    ((2 * degree - 1) * x * value - (degree - 1) * before) / degree,
                )
            slope = n * (x * value - before) / (x * x - 1)
            x -= value / slope
        nodes += [-x, x]
        weights += [2 / ((1 - x * x) * slope**2)] * 2
    return torch.tensor(nodes, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
