"""Adaptive solver for an ordinary differential equation.

    dy/ds = f(s, y)

The method is the embedded Runge-Kutta pair of Dormand and Prince. The difference between its
fifth-order and fourth-order steps estimates the error, which determines the next step's length.

References:
    Dormand & Prince 1980, https://doi.org/10.1016/0771-050X(80)90013-3
    Hairer, Norsett & Wanner 1993, section II.4 (step size), https://doi.org/10.1007/978-3-540-78862-1
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.errors import UserError

State = Float64[Tensor, "*shape"]

# Butcher tableau. The last row of coefficients is the fifth-order step itself.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_COEFFICIENTS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth-order weights minus fourth-order weights.
_ERROR_WEIGHTS = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _MIN_FACTOR, _MAX_FACTOR = 0.9, 0.2, 5.0
# First and shortest step as fractions of the whole interval. If the first step is too long it is
# rejected, which costs six evaluations.
_FIRST_STEP, _SHORTEST_STEP = 1e-3, 1e-10
_MAX_EVALUATIONS = 20_000


class Solution(NamedTuple):
    """The state at the end of the interval, and the number of evaluations of f."""

    y: State
    evaluations: int


def solve(
    f: Callable[[float, State], State], y: State, start: float, end: float, *, tolerance: float
) -> Solution:
    """Integrate dy/ds = f(s, y) from start to end.

    Args:
        f: Right-hand side, a function of (s, y).
        y: State at start. All entries take the same steps.
        start: Value of s at which y is given.
        end: Value of s at which the solution is wanted, on either side of start.
        tolerance: Largest error of a step: the root mean square over all entries of the estimated
            error divided by 1 + |y|.

    Raises:
        UserError: If the error exceeds the tolerance even in the shortest step, for example because
            f is not finite, or if too many evaluations are needed.
    """
    s, step = start, (end - start) * _FIRST_STEP
    slopes = [f(s, y)]
    evaluations = 1
    while s != end:
        is_last = abs(step) >= abs(end - s) * (1 - 1e-9)
        step = end - s if is_last else step
        if abs(step) < abs(end - start) * _SHORTEST_STEP or evaluations > _MAX_EVALUATIONS:
            raise UserError(
                f"the probability flow cannot be solved at {s:.4g} between {start:.4g} and"
                f" {end:.4g}: the velocity of the model is not finite, or not smooth enough for the"
                f" tolerance {tolerance:g}; train another model, or raise the tolerance of the"
                " solver in params.yaml"
            )
        for node, weights in zip(_NODES[1:], _COEFFICIENTS[1:], strict=True):
            y_new = y + step * _combine(weights, slopes)
            slopes.append(f(s + node * step, y_new))
        evaluations += len(_NODES) - 1
        errors = step * _combine(_ERROR_WEIGHTS, slopes) / (1 + torch.maximum(y.abs(), y_new.abs()))
        error = math.sqrt(float(errors.square().mean())) / tolerance
        if error <= 1:
            s, y = end if is_last else s + step, y_new
            # The last slope of this step is the first of the next.
            slopes = [slopes[-1]]
        else:
            slopes = [slopes[0]]
        # A NaN fails the comparison above, so the step is rejected; shorten the next one.
        factor = _MIN_FACTOR if math.isnan(error) else _SAFETY * max(error, 1e-10) ** -0.2
        step *= min(_MAX_FACTOR, max(_MIN_FACTOR, factor))
    return Solution(y, evaluations)


def _combine(weights: Sequence[float], slopes: Sequence[State]) -> State:
    """Weighted sum of the slopes."""
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total.add_(slope, alpha=weight)
    return total
