import math

import pytest
import torch

from ddpm.datasets import SPIRAL, Curve, Scaling


def line(u: torch.Tensor) -> torch.Tensor:
    return torch.stack((u, 3 * u + 1), dim=1)


LINE = Curve(raw=line, u_min=-2.0, u_max=2.0)


def test_the_extent_is_that_of_the_curve_to_rounding() -> None:
    # The extremes of u cos u are where cot u = u, those of u sin u where tan u = -u; or at an end.
    low, high = SPIRAL.extent
    assert float(low[0]) == pytest.approx(-9.477294259479794, abs=1e-14)
    assert float(high[0]) == pytest.approx(12.605931297892675, abs=1e-14)
    assert float(low[1]) == pytest.approx(-11.040708015930001, abs=1e-14)
    assert float(high[1]) == pytest.approx(4.5 * math.pi, abs=1e-14)


def test_the_curve_spans_exactly_minus_one_to_one() -> None:
    points = SPIRAL.points(
        torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 2_000_001, dtype=torch.float64)
    )
    torch.testing.assert_close(points.amin(0), -torch.ones(2).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(points.amax(0), torch.ones(2).double(), rtol=0, atol=1e-8)
    assert float(points.abs().max()) <= 1 + 1e-14


def test_a_sample_has_the_distributions_moments(generator: torch.Generator) -> None:
    n = 100_000
    x = SPIRAL.sample(n, 0.02, generator=generator)
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64)
    curve = SPIRAL.points(u)
    variance = curve.var(0) + 0.02**2
    off = (x.mean(0) - curve.mean(0)) / (variance / n).sqrt()
    assert float(off.abs().max()) < 4
    assert curve.mean(0).tolist() == pytest.approx([0.0395, -0.1061], abs=1e-4)
    assert variance.sqrt().tolist() == pytest.approx([0.6002, 0.5525], abs=1e-4)
    # The second moment's own spread is at most that of a variable bounded by its square.
    assert (x.var(0) / variance).tolist() == pytest.approx([1, 1], abs=4 * math.sqrt(2 / n))


def test_without_noise_every_point_is_on_the_curve(generator: torch.Generator) -> None:
    u, distance = SPIRAL.project(SPIRAL.sample(1000, 0.0, generator=generator))
    assert float(distance.max()) < 1e-7
    assert SPIRAL.uniformity(u) < 1.95 / math.sqrt(1000)


def test_a_point_beside_the_curve_is_projected_back() -> None:
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 500, dtype=torch.float64)
    h = 1e-6
    inner = u.clamp(SPIRAL.u_min + h, SPIRAL.u_max - h)
    tangent = SPIRAL.points(inner + h) - SPIRAL.points(inner - h)
    normal = torch.stack((-tangent[:, 1], tangent[:, 0]), 1) / tangent.norm(dim=1, keepdim=True)
    found, distance = SPIRAL.project(SPIRAL.points(inner) + 0.03 * normal)
    torch.testing.assert_close(found, inner, rtol=0, atol=1e-5)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.03), rtol=0, atol=1e-9)


def test_beyond_its_ends_the_nearest_point_is_the_end() -> None:
    # On the scaled line the corners are (-1, -1) and (1, 1).
    u, distance = LINE.project(torch.tensor([[-2.0, -1.0], [3.0, 1.0], [-0.5, 0.5]]).double())
    assert u.tolist() == pytest.approx([-2, 2, 0], abs=1e-6)
    assert distance.tolist() == pytest.approx([1, 2, math.sqrt(0.5)])


def test_uniformity_is_the_supremum_over_both_sides_of_each_step() -> None:
    assert LINE.uniformity(torch.tensor([0.0]).double()) == pytest.approx(0.5)
    assert LINE.uniformity(torch.tensor([-2.0, -2.0]).double()) == pytest.approx(1)
    assert LINE.uniformity(torch.tensor([2.0]).double()) == pytest.approx(1)
    ideal = -2 + 4 * (torch.arange(10).double() + 0.5) / 10
    assert LINE.uniformity(ideal.flip(0)) == pytest.approx(0.05)


def test_the_same_generator_gives_the_same_points() -> None:
    draws = [
        SPIRAL.sample(5, 0.1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_scaling_standardises_with_one_scalar_and_is_undone(generator: torch.Generator) -> None:
    x = torch.randn(50, 2, generator=generator) * torch.tensor([3.0, 0.5]) + 7
    scaling = Scaling.of(x)
    z = scaling.to_model(x.double())
    torch.testing.assert_close(z.mean(0), torch.zeros(2).double())
    assert float(z.square().sum(1).mean()) == pytest.approx(2)
    torch.testing.assert_close(
        z.std(0)[0] / z.std(0)[1], x.double().std(0)[0] / x.double().std(0)[1]
    )
    torch.testing.assert_close(scaling.to_data(z), x.double())
    assert scaling.to_model(x).dtype == torch.float32
