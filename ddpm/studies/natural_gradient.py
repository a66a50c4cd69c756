"""Natural gradient descent, for the few variables of a sampler.

A sampler's log-ratios v = log q - log p at each point depend on its variables, its times or its
coefficients. The matrix E[dv dv'] is the Fisher information of the sampler's output about them, and
near the optimum of KL(sampler || truth) its curvature, so that a step solves a small linear system.
It is damped, as in the method of Levenberg and Marquardt, until the objective falls. Near a fold v
has steep slopes at single points; they are bounded in the matrix, while the gradient is that of the
objective itself. Derivatives are forward differences.

References:
    Amari 1998 (natural gradient), https://doi.org/10.1162/089976698300017746
    Marquardt 1963, https://doi.org/10.1137/0111030
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel

_INCREMENT = 1e-5
# Largest slope in the Fisher information.
_STEEPEST = 1e3
# Added to the Fisher information, for variables that have next to none: the factors of the estimate
# of x_0 at T, which is nearly the same everywhere. Errors should be of order one, as nats are.
_LEAST = 2e-4
# Largest number of dampings that are tried in one iteration, and factor between them.
_MAX_TRIES, _FACTOR = 14, 4.0
# Largest change of a variable in one iteration.
_MAX_MOVE = 1.0


class Descent(NamedTuple):
    """Where a descent ended: the least error that was found, and the variables that have it."""

    error: float
    variables: list[float]


class Evaluation(NamedTuple):
    """The error of a sampler.

    Attributes:
        error: What is minimised.
        residuals: What it is a mean over, such as v at each point: the mean of their squared slopes
            is about the curvature of the error.
    """

    error: float
    residuals: Float64[Tensor, " m"]


def descend(
    evaluate: Callable[[Sequence[float]], Evaluation | None],
    variables: Sequence[float],
    *,
    iterations: int,
    min_gain: float,
) -> Descent:
    """Change variables so that the error falls.

    Args:
        evaluate: Maps the variables to an error; None where they are not allowed.
        variables: Where the search begins; they must be allowed.
        iterations: Largest number of iterations.
        min_gain: Stop when an iteration reduces the error by less than this fraction.

    Raises:
        ValueError: If the search begins with variables that are not allowed.
    """
    variables, damping = list(variables), 1e-2
    current = evaluate(variables)
    if current is None:
        raise ValueError("the search began with variables that are not allowed")
    bar = tqdm(range(iterations), desc="descend", unit="iteration", leave=False, disable=None)
    for _ in bar:
        gradient, information = _derivatives(evaluate, variables, current)
        if not any(gradient):
            break
        for _ in range(_MAX_TRIES):
            damped = [
                [value + (damping * value + _LEAST) * (i == j) for j, value in enumerate(row)]
                for i, row in enumerate(information)
            ]
            step = [max(-_MAX_MOVE, min(_MAX_MOVE, x)) for x in solve_linear(damped, gradient)]
            candidate = [value - change for value, change in zip(variables, step, strict=True)]
            new = evaluate(candidate)
            if new is not None and new.error < current.error:
                break
            damping *= _FACTOR
        else:
            break
        gain, enough = current.error - new.error, min_gain * abs(current.error)
        variables, current, damping = candidate, new, damping / _FACTOR
        bar.set_postfix(error=f"{current.error:.4f}")
        if gain < enough:
            break
    return Descent(current.error, variables)


def _derivatives(
    evaluate: Callable[[Sequence[float]], Evaluation | None],
    variables: Sequence[float],
    current: Evaluation,
) -> tuple[list[float], list[list[float]]]:
    """Gradient of the error, and the Fisher information."""

    def shifted(k: int) -> Evaluation:
        evaluation = evaluate([x + _INCREMENT * (j == k) for j, x in enumerate(variables)])
        return current if evaluation is None else evaluation

    evaluations = in_parallel(shifted, range(len(variables)))
    gradient = [(evaluation.error - current.error) / _INCREMENT for evaluation in evaluations]
    slopes = torch.stack(
        [(evaluation.residuals - current.residuals) / _INCREMENT for evaluation in evaluations],
        dim=1,
    ).clamp(-_STEEPEST, _STEEPEST)
    information: list[list[float]] = (slopes.T @ slopes / len(slopes)).tolist()
    return gradient, information


def solve_linear(
    matrix: Sequence[Sequence[float]], right_hand_side: Sequence[float]
) -> list[float]:
    """Solve a small linear system by Gaussian elimination.

    `torch.linalg.solve` gives other last bits, which the steps of a search amplify until they
    change the third digit of the optimised times.

    Raises:
        ZeroDivisionError: If the matrix is singular.
    """
    rows = [[*row, value] for row, value in zip(matrix, right_hand_side, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    solution = [0.0] * n
    for k in reversed(range(n)):
        solved_part = sum(rows[k][j] * solution[j] for j in range(k + 1, n))
        solution[k] = (rows[k][n] - solved_part) / rows[k][k]
    return solution
