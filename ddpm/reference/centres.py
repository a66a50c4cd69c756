"""Centres of Gaussians: on curves, in a list of points, or in boxes.

For data x_0 = c + noise e with e ~ N(0, I), the distribution of x_t is E_c N(x; a c, V I). Each
kind of centres evaluates its logarithm, and means of c given x. Everything is float64, in model
units.

Integrals are sums over the nodes of Gauss-Legendre panels, each at most 8/3 standard deviations
sqrt(V) long. In a box the integral is the product of one over x and one over y.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from typing_extensions import override

from ddpm.core.compute import log
from ddpm.data.boxes import Box
from ddpm.data.curves import Curve
from ddpm.data.datasets import sample_mixture
from ddpm.data.scaling import Scaling
from ddpm.reference.mixture import PerPoint, Points, mixture_means, weighted_means
from ddpm.reference.quadrature import Nodes, panel_nodes, quadrature, uniform_nodes

# For each point the mean of c, and where asked for those of the four entries of c c'.
Means = Float64[Tensor, "n _"]

# Length of a panel, in standard deviations of the noise.
_MAX_PANEL = 8 / 3
_MIN_PANELS = 8
# Sets of nodes to cache: a solver returns to the same few noise levels again and again.
_MAX_CACHED = 64


class Centres(ABC):
    """A distribution of centres c."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Points:
        """Draw n centres."""

    @abstractmethod
    def means(
        self, x: Points, a: float, variance: float, *, squares: bool = False
    ) -> tuple[PerPoint, Means]:
        """Evaluate log E_c N(x; a c, variance I), and the means of c given x.

        Args:
            x: Points.
            a: Factor of the centres.
            variance: Variance of each Gaussian.
            squares: Whether to append the means of c c'.
        """


@dataclass(frozen=True)
class NodeCentres(Centres):
    """Centres on curves or in a list of points.

    Attributes:
        nodes: Maps the largest allowed length of a panel to quadrature nodes.
        drawn: Maps (n, generator) to n random centres.
    """

    nodes: Callable[[float], Nodes]
    drawn: Callable[[int, torch.Generator], Points]

    @classmethod
    def on_curves(cls, curves: Sequence[tuple[float, Curve]], scaling: Scaling) -> "NodeCentres":
        """Centres on curves, u uniform on each.

        Args:
            curves: Pairs of a weight and a curve; the weights sum to 1.
            scaling: Map to model units.
        """
        lengths = [curve.length_bound / scaling.scale for _, curve in curves]
        cache: dict[tuple[int, ...], Nodes] = {}

        def nodes(max_panel: float) -> Nodes:
            panels = tuple(max(_MIN_PANELS, math.ceil(length / max_panel)) for length in lengths)
            if panels not in cache:
                if len(cache) >= _MAX_CACHED:
                    cache.clear()
                parts = [
                    quadrature(curve, weight, count)
                    for (weight, curve), count in zip(curves, panels, strict=True)
                ]
                centres, log_weights = (
                    torch.cat(part) for part in zip(*(part[:2] for part in parts), strict=True)
                )
                cache[panels] = Nodes(scaling.to_model(centres), log_weights, on_panels=True)
            return cache[panels]

        def draw(n: int, generator: torch.Generator) -> Points:
            return scaling.to_model(sample_mixture(curves, n, 0.0, generator=generator)[0])

        return cls(nodes, draw)

    @classmethod
    def in_list(cls, points: Points) -> "NodeCentres":
        """Centres drawn uniformly from a list."""
        nodes = uniform_nodes(points)

        def draw(n: int, generator: torch.Generator) -> Points:
            return points[torch.randint(len(points), (n,), generator=generator)]

        return cls(lambda _: nodes, draw)

    @override
    def draw(self, n: int, generator: torch.Generator) -> Points:
        return self.drawn(n, generator)

    @override
    def means(
        self, x: Points, a: float, variance: float, *, squares: bool = False
    ) -> tuple[PerPoint, Means]:
        nodes = self.nodes(_max_panel(a, variance))
        values = nodes.centres
        if squares:
            outer = values[:, :, None] * values[:, None, :]
            values = torch.cat((values, outer.flatten(1)), dim=1)
        return mixture_means(x, nodes, a, variance, values)


@dataclass(frozen=True)
class BoxCentres(Centres):
    """Centres that are uniform in each of several boxes.

    Attributes:
        boxes: Pairs of a weight and a box, data units; the weights sum to 1.
        scaling: Map to model units.
    """

    boxes: Sequence[tuple[float, Box]]
    scaling: Scaling

    @override
    def draw(self, n: int, generator: torch.Generator) -> Points:
        return self.scaling.to_model(sample_mixture(self.boxes, n, 0.0, generator=generator)[0])

    @override
    def means(
        self, x: Points, a: float, variance: float, *, squares: bool = False
    ) -> tuple[PerPoint, Means]:
        by_axis = [
            self._intervals(x[:, axis : axis + 1], axis, a, variance) for axis in range(x.shape[1])
        ]
        joint = []
        for weight, box in self.boxes:
            (log_x, in_x), (log_y, in_y) = by_axis[0][box.x], by_axis[1][box.y]
            means = torch.stack((in_x[:, 0], in_y[:, 0]), dim=1)
            if squares:
                mixed = in_x[:, 0] * in_y[:, 0]
                entries = torch.stack((in_x[:, 1], mixed, mixed, in_y[:, 1]), dim=1)
                means = torch.cat((means, entries), dim=1)
            joint.append((math.log(weight) + log_x + log_y, means))
        logs, means = (torch.stack(part) for part in zip(*joint, strict=True))
        largest = logs.detach().amax(0)
        shares = (logs - largest).exp()
        total = shares.sum(0)
        return largest + log(total), (shares[..., None] * means).sum(0) / total[:, None]

    def _intervals(
        self, x: Float64[Tensor, "n 1"], axis: int, a: float, variance: float
    ) -> dict[tuple[float, float], tuple[PerPoint, Float64[Tensor, "n 2"]]]:
        """For each side of a box along an axis: the log density, and the means of c and c^2."""
        sides = {(box.x, box.y)[axis] for _, box in self.boxes}
        constant = x[:, 0].square() / (2 * variance) + math.log(2 * math.pi * variance) / 2
        results = {}
        for side in sorted(sides):
            low, high = (
                (end - float(self.scaling.mean[axis])) / self.scaling.scale for end in side
            )
            panels = max(1, math.ceil((high - low) / _max_panel(a, variance)))
            c, log_weights = panel_nodes(low, high, 1.0, panels)
            # As in `mixture_means`, the exponent is linear in x.
            bias = log_weights - (a * c).square() / (2 * variance)
            columns = torch.stack((c, c.square()), dim=1)
            log_sum, means = weighted_means(x, (a * c / variance)[None], bias, columns)
            results[side] = log_sum - constant, means
        return results


def _max_panel(a: float, variance: float) -> float:
    # Without signal (a = 0) the integrand is constant, and panels of any length are exact.
    return _MAX_PANEL * math.sqrt(variance) / a if a > 0 else math.inf
