"""An ordinary differential equation, solved to a tolerance.

    dy/ds = f(s, y)

Dormand and Prince's pair: a fifth-order step, whose difference from a fourth-order one estimates
the error and sets the next step's length.

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

from ddpm.errors import UserError

State = Float64[Tensor, "*shape"]

# Where each stage is taken, from which earlier ones; the last row is the fifth-order step itself.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth-order weights less fourth-order ones.
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 5.0
# The first step, as part of the whole way: too long a one is only refused.
_FIRST = 1e-3
_SHORTEST = 1e-10
_MOST_EVALUATIONS = 20_000


class Solution(NamedTuple):
    """Where an integration ended, and how many evaluations of f it took."""

    y: State
    evaluations: int


def solve(
    f: Callable[[float, State], State], y: State, start: float, end: float, *, tolerance: float
) -> Solution:
    """Integrate from start to end.

    Args:
        f: Right-hand side, of (s, y).
        y: State at start; all of it takes the same steps.
        start: Where y is given.
        end: Where it is wanted, on either side of start.
        tolerance: Error allowed in a step: root mean square over the state of the estimated error,
            each entry's divided by 1 + |y|.

    Raises:
        UserError: If no step is short enough, as where f is not finite, or too many are needed.
    """
    s, step = start, (end - start) * _FIRST
    stages = [f(s, y)]
    evaluations = 1
    while s != end:
        last = abs(step) >= abs(end - s) * (1 - 1e-9)
        step = end - s if last else step
        if abs(step) < abs(end - start) * _SHORTEST or evaluations > _MOST_EVALUATIONS:
            raise UserError(
                f"the probability flow cannot be solved at {s:.4g} on its way from {start:.4g} to"
                f" {end:.4g}: the model's velocity is not finite, or rough; train another model, or"
                " raise the solver's tolerance in params.yaml"
            )
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            at = y + step * _combine(weights, stages)
            stages.append(f(s + node * step, at))
        evaluations += len(_NODES) - 1
        off = step * _combine(_ERROR, stages) / (1 + torch.maximum(y.abs(), at.abs()))
        error = math.sqrt(float(off.square().mean())) / tolerance
        if error <= 1:
            s, y = end if last else s + step, at
            stages = [stages[-1]]
        else:
            stages = [stages[0]]
        # Not a number compares as neither: such a step is refused and shortened.
        factor = _SAFETY * max(error, 1e-10) ** -0.2 if error == error else _LEAST
        step *= min(_MOST, max(_LEAST, factor))
    return Solution(y, evaluations)


def _combine(weights: Sequence[float], stages: Sequence[State]) -> State:
    total = torch.zeros_like(stages[0])
    for weight, stage in zip(weights, stages, strict=True):
        if weight:
            total = total.add_(stage, alpha=weight)
    return total
