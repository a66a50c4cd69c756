from collections.abc import Sequence

import pytest
import torch

from ddpm.core.compute import stream
from ddpm.studies.natural_gradient import Evaluation, descend, solve_linear


def rosenbrock(variables: Sequence[float]) -> Evaluation:
    x, y = variables
    residuals = torch.tensor([10 * (y - x * x), 1 - x], dtype=torch.float64)
    return Evaluation(float(residuals.square().mean()) / 2, residuals)


def test_the_descent_follows_a_curved_valley() -> None:
    end = descend(rosenbrock, [-1.2, 1.0], iterations=100, min_gain=0).variables
    assert end == pytest.approx([1, 1], abs=1e-2)
    # Gradient descent needs thousands of steps here.
    few = descend(rosenbrock, [-1.2, 1.0], iterations=30, min_gain=0)
    assert few.error == rosenbrock(few.variables).error
    assert few.error < 0.01 * rosenbrock([-1.2, 1.0]).error


def test_one_step_is_enough_where_the_error_is_quadratic() -> None:
    matrix = torch.randn(20, 3, dtype=torch.float64, generator=stream(0, "matrix"))
    right = torch.randn(20, dtype=torch.float64, generator=stream(0, "right"))

    def evaluate(variables: Sequence[float]) -> Evaluation:
        residuals = matrix @ torch.tensor(variables, dtype=torch.float64) - right
        return Evaluation(float(residuals.square().mean()) / 2, residuals)

    best = torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0].tolist()
    # The first step is damped by one per cent.
    for iterations, error in ((1, 0.03), (9, 1e-4)):
        end = descend(evaluate, [0.0] * 3, iterations=iterations, min_gain=0)
        assert end.variables == pytest.approx(best, abs=error)


def test_the_descent_stays_where_variables_are_allowed_and_ends_lowest() -> None:
    visited = []

    def evaluate(variables: Sequence[float]) -> Evaluation | None:
        if variables[0] > 0.5:
            return None
        visited.append(rosenbrock(variables).error)
        return rosenbrock(variables)

    end = descend(evaluate, [-1.2, 1.0], iterations=60, min_gain=0).variables
    assert end[0] <= 0.5
    # The derivatives look a little further.
    assert rosenbrock(end).error == pytest.approx(min(visited), rel=1e-6)
    with pytest.raises(ValueError, match="began with variables that are not allowed"):
        descend(evaluate, [0.6, 0.0], iterations=1, min_gain=0)


def test_the_descent_stops_when_little_is_gained() -> None:
    calls = []

    def evaluate(variables: Sequence[float]) -> Evaluation:
        calls.append(variables)
        residuals = torch.tensor([variables[0]], dtype=torch.float64)
        return Evaluation(1 + float(residuals.square().mean()) / 2, residuals)

    descend(evaluate, [0.01], iterations=100, min_gain=0.02)
    # The start, one derivative and one step.
    assert len(calls) == 3


def test_a_small_linear_system_is_solved_as_torch_solves_it() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=stream(0, "matrix"))
    # Without pivoting this would divide by zero.
    matrix[0, 0] = 0
    right = torch.randn(6, dtype=torch.float64, generator=stream(0, "right"))
    expected = torch.linalg.solve(matrix, right).tolist()
    assert solve_linear(matrix.tolist(), right.tolist()) == pytest.approx(expected)


def test_a_singular_linear_system_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        solve_linear([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0])
