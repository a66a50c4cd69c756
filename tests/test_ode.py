import math

import numpy as np
import pytest
import torch

from ddpm.core.errors import UserError
from ddpm.flow.ode import solve


def rotate(s: float, y: torch.Tensor) -> torch.Tensor:
    """Rotation with angular velocity 2 s: from s = 0 the angle is s^2."""
    return 2 * s * torch.stack((-y[:, 1], y[:, 0]), dim=1)


START = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_a_rotation_is_solved_to_the_tolerance(tolerance: float) -> None:
    y = solve(rotate, START, 0.0, 3.0, tolerance=tolerance).y
    error = math.dist(y[0].tolist(), (math.cos(9), math.sin(9)))
    assert error < 20 * tolerance


def test_solving_backwards_returns_to_the_start() -> None:
    end = solve(rotate, START, 0.5, 3.0, tolerance=1e-9).y
    start = solve(rotate, end, 3.0, 0.5, tolerance=1e-9).y
    torch.testing.assert_close(start, START, rtol=0, atol=1e-7)


def test_the_error_falls_with_the_fifth_power_of_the_evaluations() -> None:
    # A step's error is of order 6 and its length follows from the tolerance.
    errors, evaluations = [], []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        y, count = solve(rotate, START, 0.0, 4.0, tolerance=tolerance)
        errors.append(math.dist(y[0].tolist(), (math.cos(16), math.sin(16))))
        evaluations.append(count)
    slope = -np.polyfit(np.log(evaluations), np.log(errors), 1)[0]
    assert 4.5 < slope < 6.5


def test_the_evaluations_are_counted() -> None:
    evaluated_at = []

    def right_hand_side(s: float, y: torch.Tensor) -> torch.Tensor:
        evaluated_at.append(s)
        return rotate(s, y)

    solution = solve(right_hand_side, START, 0.0, 3.0, tolerance=1e-5)
    assert solution.evaluations == len(evaluated_at)


def test_a_right_hand_side_of_degree_four_is_integrated_exactly_in_any_step() -> None:
    y = solve(lambda s, y: torch.full_like(y, 5 * s**4), START, 0.0, 2.0, tolerance=1.0).y
    torch.testing.assert_close(y, START + 32, rtol=1e-13, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_right_hand_side_that_is_not_finite_is_refused(value: float) -> None:
    def right_hand_side(s: float, y: torch.Tensor) -> torch.Tensor:
        return torch.full_like(y, value if s > 0.5 else 1.0)

    with pytest.raises(
        UserError, match=r"cannot be solved at 0\.\d+ .*not finite.*raise the tolerance of the sol"
    ):
        solve(right_hand_side, START, 0.0, 1.0, tolerance=1e-5)
