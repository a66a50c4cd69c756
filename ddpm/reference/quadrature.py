"""Gauss-Legendre quadrature along a curve, and over an interval."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import log
from ddpm.data.curves import Curve

# Positive nodes and their weights, of the rule with 16 nodes on [-1, 1]. They are literals because
# NumPy computes them with an eigenvalue solver whose last bits depend on the processor.
_POSITIVE = (
    (0.9894009349916499, 0.027152459411754058),
    (0.9445750230732326, 0.062253523938647776),
    (0.8656312023878318, 0.0951585116824929),
    (0.755404408355003, 0.12462897125553395),
    (0.6178762444026438, 0.14959598881657685),
    (0.45801677765722737, 0.16915651939500256),
    (0.2816035507792589, 0.1826034150449236),
    (0.09501250983763744, 0.1894506104550685),
)
PER_PANEL = 2 * len(_POSITIVE)
NODES = torch.tensor([sign * x for x, _ in _POSITIVE for sign in (-1, 1)], dtype=torch.float64)
WEIGHTS = torch.tensor([w for _, w in _POSITIVE for _ in range(2)], dtype=torch.float64)


class Nodes(NamedTuple):
    """Quadrature nodes of a distribution over centres.

    Attributes:
        centres: The nodes.
        log_weights: Logarithms of their weights. The weights of a whole distribution sum to 1.
        on_panels: Whether each PER_PANEL consecutive nodes are those of a short piece of a curve.
    """

    centres: Float64[Tensor, "m 2"]
    log_weights: Float64[Tensor, " m"]
    on_panels: bool = False


def quadrature(curve: Curve, weight: float, panels: int) -> Nodes:
    """Place nodes on equal panels of the curve's parameter. Their weights sum to `weight`.

    Args:
        curve: The curve.
        weight: Share of the curve in the whole distribution.
        panels: Number of panels, with PER_PANEL nodes each.

    Returns:
        Nodes in data units.
    """
    u, log_weights = panel_nodes(curve.u_min, curve.u_max, weight, panels)
    return Nodes(curve.points(u), log_weights, on_panels=True)


def panel_nodes(
    low: float, high: float, weight: float, panels: int
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """Place nodes on equal panels of an interval.

    Returns:
        The nodes, and the logarithms of their weights, which sum to `weight`.
    """
    width = (high - low) / panels
    middles = low + width * (torch.arange(panels, dtype=torch.float64) + 0.5)
    nodes = middles[:, None] + width / 2 * NODES
    # The weights of the rule sum to 2 in each panel.
    return nodes.flatten(), log(WEIGHTS * (weight / (2 * panels))).repeat(panels)


def uniform_nodes(points: Float64[Tensor, "m 2"]) -> Nodes:
    """Give every point the same weight."""
    log_weights = torch.full((len(points),), -math.log(len(points)), dtype=torch.float64)
    return Nodes(points, log_weights)
