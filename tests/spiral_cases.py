"""What the tests of the exact distribution share: the spiral, and points and grids around it."""

import math

import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.data.curves import Curve
from ddpm.data.datasets import SPIRAL
from ddpm.data.scaling import Scaling
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.distribution import ExactDistribution

SCALING = Scaling(torch.tensor([0.0395, -0.1061]).double(), 0.577)
# From data to noise, and not only at whole times.
TIMES = (0.0, 0.3, 1.0, 17.5, 60.0, 200.0, 555.5, 1000.0)


def spiral(noise: float = 0.02, schedule: Schedule | None = None) -> ExactDistribution:
    return ExactDistribution.from_curves(
        [(1.0, SPIRAL)], noise, SCALING, schedule or shipped_schedule("linear", 1000)
    )


def line(u: Tensor) -> Tensor:
    return torch.stack((u, 3 * u + 1), dim=1)


# A spiral and a line, which after scaling goes from corner to corner.
MIXED = [(0.25, SPIRAL), (0.75, Curve(raw=line, u_min=-2.0, u_max=2.0))]


def mixed(noise: float = 0.02) -> ExactDistribution:
    return ExactDistribution.from_curves(MIXED, noise, SCALING, shipped_schedule("linear", 1000))


def width_at(exact: ExactDistribution, t: float) -> float:
    """Standard deviation of the Gaussian around each scaled centre."""
    a, sigma = exact.schedule.levels(t)
    return math.sqrt(sigma**2 + (a * exact.noise) ** 2)


def points_at(exact: ExactDistribution, t: float, n: int = 200) -> Tensor:
    """Points in and around the region where p_t is large."""
    generator = stream(0, f"points/{t}")
    clean = SCALING.to_model(SPIRAL.sample(n, 0.02, generator=generator))
    a, _ = exact.schedule.levels(t)
    return a * clean + 3 * width_at(exact, t) * torch.randn(
        n, 2, dtype=torch.float64, generator=generator
    )


def grid_around(exact: ExactDistribution, t: float) -> tuple[Tensor, float]:
    """Coordinates along one side of a square grid that covers p_t, and their spacing.

    The sum over a grid of a smooth function that vanishes at its edge converges geometrically.
    """
    width = width_at(exact, t)
    reach, step = 2.6 * exact.schedule.levels(t)[0] + 7 * width, width / 1.5
    half = math.ceil(reach / step)
    return torch.arange(-half, half + 1).double() * step, step


def assert_calibrated(errors: Tensor, reported: Tensor) -> None:
    """Check reported standard errors against errors from independent repetitions."""
    scatter = float(errors.std() / reported.square().mean().sqrt())
    assert 0.8 <= scatter <= 1.25
    assert 0.01 <= float((errors.abs() > 2 * reported).double().mean()) <= 0.09
    assert abs(float(errors.mean())) < 3 * float(errors.std()) / math.sqrt(len(errors))
