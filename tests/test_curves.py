import math
from dataclasses import replace

import pytest
import torch

from ddpm.data.curves import Curve
from ddpm.data.datasets import SPIRAL


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


def test_each_axis_is_scaled_by_its_own_extent() -> None:
    u = torch.tensor([-2.0, 0.0, 1.0, 2.0]).double()
    expected = torch.tensor([-1.0, 0.0, 0.5, 1.0]).double()
    torch.testing.assert_close(LINE.points(u), torch.stack((expected, expected), 1))


def test_the_length_bound_is_the_length_at_the_greatest_speed() -> None:
    assert LINE.length_bound == pytest.approx(2 * math.sqrt(2))
    # The spiral's speed in data units, from the derivative of (u cos u, u sin u).
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64)
    slope = torch.stack((u.cos() - u * u.sin(), u.sin() + u * u.cos()), 1)
    low, high = SPIRAL.extent
    speed = (2 * slope / (high - low)).norm(dim=1)
    expected = float(speed.max()) * (SPIRAL.u_max - SPIRAL.u_min)
    assert SPIRAL.length_bound == pytest.approx(expected, rel=1e-3)


def test_a_point_beside_the_curve_is_projected_back() -> None:
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 500, dtype=torch.float64)
    h = 1e-6
    inner = u.clamp(SPIRAL.u_min + h, SPIRAL.u_max - h)
    tangent = SPIRAL.points(inner + h) - SPIRAL.points(inner - h)
    normal = torch.stack((-tangent[:, 1], tangent[:, 0]), 1) / tangent.norm(dim=1, keepdim=True)
    position, distance = SPIRAL.project(SPIRAL.points(inner) + 0.03 * normal)
    expected = (inner - SPIRAL.u_min) / (SPIRAL.u_max - SPIRAL.u_min)
    torch.testing.assert_close(position, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.03), rtol=0, atol=1e-9)


def test_beyond_its_ends_the_nearest_point_is_the_end() -> None:
    # On the scaled line the corners are (-1, -1) and (1, 1).
    position, distance = LINE.project(
        torch.tensor([[-2.0, -1.0], [3.0, 1.0], [-0.5, 0.5]]).double()
    )
    assert position.tolist() == pytest.approx([0, 1, 0.5], abs=1e-6)
    assert distance.tolist() == pytest.approx([1, 2, math.sqrt(0.5)])


def test_a_frame_takes_the_place_of_the_extent() -> None:
    framed = replace(LINE, frame=((-4.0, -5.0), (4.0, 15.0)))
    u = torch.tensor([-2.0, 0.0, 2.0]).double()
    expected = torch.tensor([[-0.5, -1.0], [0.0, -0.4], [0.5, 0.2]]).double()
    torch.testing.assert_close(framed.points(u), expected)
    assert torch.equal(torch.stack(framed.extent), torch.stack(LINE.extent))
