import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from spiral_cases import SCALING, TIMES, mixed, points_at, spiral, width_at

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.reference import mixture
from ddpm.reference.centres import NodeCentres
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.quadrature import NODES, WEIGHTS, quadrature, uniform_nodes


def test_the_nodes_and_weights_are_those_of_gauss_and_legendre() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    order = NODES.argsort()
    np.testing.assert_allclose(NODES[order].numpy(), nodes, rtol=0, atol=1e-15)
    np.testing.assert_allclose(WEIGHTS[order].numpy(), weights, rtol=0, atol=1e-15)


@pytest.mark.parametrize("degree", range(32))
def test_polynomials_up_to_degree_31_are_integrated_exactly(degree: int) -> None:
    # The integral of (1 + x)^k over [-1, 1].
    integral = float((WEIGHTS * (1 + NODES) ** degree).sum())
    assert integral == pytest.approx(2 ** (degree + 1) / (degree + 1), rel=1e-14)


def test_degree_32_is_no_longer_exact() -> None:
    integral = float((WEIGHTS * NODES**32).sum())
    assert abs(integral - 2 / 33) > 1e-10


@pytest.mark.parametrize("panels", [1, 8, 50])
def test_the_weights_along_a_curve_sum_to_its_share(panels: int) -> None:
    nodes = quadrature(SPIRAL, 0.25, panels)
    assert nodes.centres.shape == (16 * panels, 2)
    assert float(nodes.log_weights.exp().sum()) == pytest.approx(0.25, rel=1e-13)


def test_the_nodes_along_a_curve_integrate_over_its_parameter() -> None:
    nodes = quadrature(SPIRAL, 1.0, 8)
    low, high = SPIRAL.extent
    raw_x = (nodes.centres[:, 0] * (high - low)[0] + (low + high)[0]) / 2
    mean = float((nodes.log_weights.exp() * raw_x).sum())
    # The raw curve has x = u cos u, whose integral is u sin u + cos u.
    start, end = SPIRAL.u_min, SPIRAL.u_max
    integral = (end * math.sin(end) + math.cos(end)) - (start * math.sin(start) + math.cos(start))
    assert mean == pytest.approx(integral / (end - start), rel=1e-12)


def test_points_of_a_list_have_equal_weights() -> None:
    points = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nodes = uniform_nodes(points)
    assert torch.equal(nodes.centres, points)
    assert nodes.log_weights.exp().tolist() == pytest.approx([1 / 7] * 7)


def refined(exact: ExactDistribution) -> ExactDistribution:
    """The same distribution with nodes that are four times as dense."""
    coarse = exact.centres
    assert isinstance(coarse, NodeCentres)
    fine = replace(coarse, nodes=lambda max_panel: coarse.nodes(max_panel / 4))
    return replace(exact, centres=fine)


@pytest.mark.parametrize("t", TIMES)
def test_within_ten_standard_deviations_denser_nodes_change_nothing(t: float) -> None:
    exact = mixed()
    a, _ = exact.schedule.levels(t)
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 40, dtype=torch.float64)
    directions = torch.tensor([[1.0, 0.0], [-1, 0], [0, 1], [0, -1], [0.6, 0.8], [-0.8, 0.6]])
    distances = [width_at(exact, t) * deviations for deviations in (0, 3, 10)]
    offsets = torch.cat([distance * directions for distance in distances]).double()
    x = (a * SCALING.to_model(SPIRAL.points(u))[:, None] + offsets).reshape(-1, 2)
    error = exact.log_density(x, t) - refined(exact).log_density(x, t)
    assert float(error.abs().max()) < 1e-10


@pytest.mark.parametrize("t", [0.0, 1.0, 30.0])
def test_on_the_spiral_the_density_agrees_with_simpsons_rule(t: float) -> None:
    # At the smallest noise that is allowed. Here the squared distances are not expanded.
    exact = spiral(noise=0.001)
    a, _ = exact.schedule.levels(t)
    variance = width_at(exact, t) ** 2
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 12, dtype=torch.float64)[3:-3]
    offset = 5 * math.sqrt(variance) * torch.tensor([[1.0, 0.0], [0.0, -2.0]]).double()
    x = (a * SCALING.to_model(SPIRAL.points(u))[:, None] + offset).reshape(-1, 2)
    n = 200_000
    fine = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, n + 1, dtype=torch.float64)
    weights = torch.tensor([2.0, 4.0]).double().repeat(n // 2 + 1)[: n + 1]
    weights[0] = weights[-1] = 1
    centres = a * SCALING.to_model(SPIRAL.points(fine))
    exponents = -(x[:, None] - centres).square().sum(2) / (2 * variance) + weights.log()
    expected = torch.logsumexp(exponents, 1) - math.log(3 * n * 2 * math.pi * variance)
    assert float((exact.log_density(x, t) - expected).abs().max()) < 1e-9


@pytest.mark.parametrize("t", [0.0, 1.0, 100.0, 1000.0])
def test_far_from_the_curve_the_density_does_not_underflow_and_is_close(t: float) -> None:
    exact = spiral()
    angles = torch.linspace(0, 6, 30, dtype=torch.float64)
    for radius in (5.0, 100.0, 1e4):
        x = radius * torch.stack((angles.cos(), angles.sin()), 1)
        log_density, expected = exact.log_density(x, t), refined(exact).log_density(x, t)
        assert bool(log_density.isfinite().all())
        assert float(((log_density - expected) / expected).abs().max()) < 5e-3
        assert bool(exact.score(x, t).isfinite().all())


@pytest.mark.parametrize("t", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("reach", [0.2, 20.0])
def test_panels_that_are_left_out_change_nothing(
    t: float, reach: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = mixed()
    x = points_at(exact, t, 100)
    x += reach * torch.randn(x.shape, dtype=torch.float64, generator=stream(0, "away"))
    results = []
    for many in (0, 10**9):
        monkeypatch.setattr(mixture, "_MANY_PANELS", many)
        results.append((exact.log_density(x, t), *exact.velocity_with_jacobian(x, t)))
    # In the Jacobian, a covariance, digits cancel.
    for near, everything, tolerance in zip(*results, (1e-12, 1e-12, 1e-9), strict=True):
        assert torch.allclose(near, everything, rtol=tolerance, atol=tolerance)
