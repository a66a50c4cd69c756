"""Sums over the centres of a mixture of Gaussians that all have the same width.

Where the centres are nodes on many panels of a curve, panels too far from a point to change a digit
are left out.
"""

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm.core.compute import distances, log, sqrt
from ddpm.reference.quadrature import PER_PANEL, Nodes

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]
# Indices of points, and of the nodes that they need.
Block = tuple[Int[Tensor, " k"], Int[Tensor, " l"] | slice]

# Entries of a matrix of points by nodes, so that it fits the cache of a core.
_BLOCK = 2**16
# With more panels than this, points take only panels nearby: the weights in all others are by
# exp(-45) smaller, less than a rounding error. So many points near each other share their panels.
_MANY_PANELS, _NEGLIGIBLE, _SHARING = 64, 45, 64
# Logarithm of the smallest term of a sum, relative to the largest.
_SMALLEST = -600


def mixture_means(
    x: Points, nodes: Nodes, a: float, variance: float, values: Float64[Tensor, "m k"]
) -> tuple[PerPoint, Float64[Tensor, "n k"]]:
    """Evaluate log p(x) of the mixture E_c N(x; a c, variance I), and means given x.

    Args:
        x: Points.
        nodes: Centres c and their weights.
        a: Factor of the centres.
        variance: Variance of each Gaussian.
        values: Functions of c at the nodes, whose means given x are wanted.
    """
    # exp(-|x - a c|^2 / 2V) without its factor exp(-|x|^2 / 2V): the exponent is linear in x.
    scaled = a * nodes.centres
    bias = nodes.log_weights - scaled.square().sum(1) / (2 * variance)
    slopes = (scaled / variance).T
    blocks: list[Block]
    if nodes.on_panels and len(scaled) > _MANY_PANELS * PER_PANEL:
        blocks = _nearby(x.detach(), scaled, variance)
    else:
        split = torch.arange(len(x)).split(max(1, _BLOCK // len(scaled)))
        blocks = [(rows, slice(None)) for rows in split]
    parts = [
        weighted_means(x[rows], slopes[:, near], bias[near], values[near]) for rows, near in blocks
    ]
    back = torch.cat([rows for rows, _ in blocks]).argsort()
    log_sum, means = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    constant = math.log(2 * math.pi * variance)
    return log_sum - x.square().sum(1) / (2 * variance) - constant, means


def _nearby(x: Points, nodes: Float64[Tensor, "m 2"], variance: float) -> list[Block]:
    """Divide points into blocks that need the same nodes.

    A panel is needed unless all of its nodes are so much further from a point than those of the
    nearest panel that their weights are negligible.
    """
    panels = nodes.unflatten(0, (-1, PER_PANEL))
    middles = panels.mean(1)
    radii = sqrt((panels - middles[:, None]).square().sum(2).amax(1))
    to_middles = distances(x, middles)
    nearest = (to_middles + radii).amin(1, keepdim=True)
    closest = (to_middles - radii).clamp(min=0)
    # Not `<`, so that a point that is not finite needs all of them.
    needed = ~(closest.square() > nearest.square() + 2 * variance * _NEGLIGIBLE)
    within = torch.arange(PER_PANEL)
    blocks: list[Block] = []
    for rows in to_middles.argmin(1).argsort(stable=True).split(_SHARING):
        chosen = needed[rows].any(0).nonzero()
        blocks.append((rows, (PER_PANEL * chosen + within).flatten()))
    return blocks


def weighted_means(
    x: Float64[Tensor, "n d"],
    slopes: Float64[Tensor, "d m"],
    bias: Float64[Tensor, " m"],
    columns: Float64[Tensor, "m k"],
) -> tuple[PerPoint, Float64[Tensor, "n k"]]:
    """Sum w_j = exp(x . slope_j + bias_j), as a logarithm, and the w-means of the columns."""
    exponents = torch.addmm(bias, x, slopes)
    largest = exponents.detach().amax(1, keepdim=True)
    # Without the limit some terms would be denormal numbers, with which arithmetic is slow. In
    # place, since new memory for each matrix would take as long as the arithmetic.
    terms = exponents.sub_(largest).clamp_(min=_SMALLEST).exp_()
    total = terms.sum(1)
    return largest[:, 0] + log(total), terms @ columns / total[:, None]
