import math

import numpy as np
import pytest
import torch

from ddpm.errors import UserError
from ddpm.ode import solve


def oscillate(s: float, y: torch.Tensor) -> torch.Tensor:
    """Turns by 90 degrees in s = pi / 2, faster and faster."""
    return 2 * s * torch.stack((-y[:, 1], y[:, 0]), dim=1)


START = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def test_a_turn_comes_out_within_the_tolerance() -> None:
    for tolerance in (1e-3, 1e-6, 1e-9):
        y = solve(oscillate, START, 0.0, 3.0, tolerance=tolerance).y
        error = math.dist(y[0].tolist(), (math.cos(9), math.sin(9)))
        assert error < 20 * tolerance


def test_the_way_back_ends_at_the_start() -> None:
    there = solve(oscillate, START, 0.5, 3.0, tolerance=1e-9).y
    back = solve(oscillate, there, 3.0, 0.5, tolerance=1e-9).y
    torch.testing.assert_close(back, START, rtol=0, atol=1e-7)


def test_the_error_falls_with_the_fifth_power_of_the_evaluations() -> None:
    # A step's error is of order 6 and its length follows from the tolerance.
    errors, evaluations = [], []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        end, count = solve(oscillate, START, 0.0, 4.0, tolerance=tolerance)
        errors.append(math.dist(end[0].tolist(), (math.cos(16), math.sin(16))))
        evaluations.append(count)
    slope = -np.polyfit(np.log(evaluations), np.log(errors), 1)[0]
    assert 4.5 < slope < 6.5


def test_the_evaluations_are_counted() -> None:
    seen = []

    def right_hand_side(s: float, y: torch.Tensor) -> torch.Tensor:
        seen.append(s)
        return oscillate(s, y)

    assert solve(right_hand_side, START, 0.0, 3.0, tolerance=1e-5).evaluations == len(seen)


def test_a_polynomial_of_degree_four_is_exact_in_any_step() -> None:
    y = solve(lambda s, y: torch.full_like(y, 5 * s**4), START, 0.0, 2.0, tolerance=1.0).y
    torch.testing.assert_close(y, START + 32, rtol=1e-13, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_field_that_is_not_finite_is_told_in_one_line(bad: float) -> None:
    def right_hand_side(s: float, y: torch.Tensor) -> torch.Tensor:
        return torch.full_like(y, bad if s > 0.5 else 1.0)

    with pytest.raises(UserError, match=r"cannot be solved at 0\.\d+ .*solver's tolerance in p"):
        solve(right_hand_side, START, 0.0, 1.0, tolerance=1e-5)
