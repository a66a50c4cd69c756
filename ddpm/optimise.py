"""Times for a sampler with few steps, found by minimising the sampler's own error.

The error is the distance between where the sampler arrives and where the converged flow does, from
the same x_T, saturated beyond a reach: a point that ends on another winding is lost, however far.

    minimise over t_2 > ... > t_N    mean of |d|^2 / (1 + |d|^2 / reach^2)

by Levenberg and Marquardt's method over the logarithms of the strides in log SNR, which keeps the
times in order. t_1 is T.

References:
    Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507
    Marquardt 1963, https://doi.org/10.1137/0111030
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.flow import flow_samples
from ddpm.process import Denoiser
from ddpm.reverse import Sampler, reverse
from ddpm.runtime import in_parallel, sqrt, stream
from ddpm.schedules import Schedule
from ddpm.spacings import OPTIMISED, log_snr_at, moments, time_of_log_snr
from ddpm.subject import Subject

Points = Float64[Tensor, "n 2"]
Residuals = Float64[Tensor, " m"]

# In units of the data's standard deviation: about one winding's width.
_REACH = 0.05
_ITERATIONS, _TRIES = 15, 6
_DIFFERENCE = 1e-3
_GAIN = 1e-3
# Below this time nothing is left to remove.
_EARLIEST = 0.01
_LONGEST_MOVE = 1.0


def optimised_spacings(
    subject: Subject, sampler: Sampler, steps: Sequence[int], *, n: int, tolerance: float
) -> dict[str, dict[str, list[float]]]:
    """Times by the name of the spacing and the number of steps.

    `optimised_truth` asks the exact denoiser; `optimised_model` asks the network alone.

    Args:
        subject: Model and truth.
        sampler: A deterministic one.
        steps: Numbers of steps.
        n: Points whose arrivals are compared.
        tolerance: Of the converged flow.
    """
    generator = stream(subject.seed, "optimise/noise")
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    denoisers = dict(zip(OPTIMISED, (subject.truth.denoiser, subject.denoiser), strict=True))
    found: dict[str, dict[str, list[float]]] = {}
    for name, denoiser in denoisers.items():
        arrived = flow_samples(denoiser, x_T, noise=subject.noise, tolerance=tolerance)
        found[name] = {}
        for count in tqdm(steps, desc=name, unit="spacing", disable=None):
            start = moments("log_snr", denoiser.schedule, count)
            found[name][str(count)] = optimise(sampler, denoiser, start, x_T, arrived)
    return found


def optimise(
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
    x_T: Points,
    arrived: Points,
) -> list[float]:
    """Move times, all but the first, until the sampler arrives as near to the flow as it can.

    Args:
        sampler: A deterministic one.
        denoiser: A network's or the exact truth's.
        times: Where to start from, falling.
        x_T: Points at T, model units.
        arrived: Where the converged flow takes them.

    Returns:
        As many times, falling, to six digits.
    """
    schedule = denoiser.schedule
    strides = [
        math.log(later - earlier)
        for earlier, later in itertools.pairwise(log_snr_at(schedule, t) for t in times)
    ]

    @torch.no_grad()
    def residuals(strides: Sequence[float]) -> Residuals:
        generator = stream(0, "optimise")
        there = reverse(sampler, denoiser, x_T, _times(schedule, strides), generator=generator).x
        off = there - arrived
        return (off / sqrt(1 + off.square().sum(1, keepdim=True) / _REACH**2)).flatten()

    found, damping = residuals(strides), 1e-2
    for _ in range(_ITERATIONS if strides else 0):
        error = float(found.square().mean())

        def slope(k: int, at: Sequence[float] = strides, here: Residuals = found) -> Residuals:
            moved = [value + _DIFFERENCE * (k == j) for j, value in enumerate(at)]
            return (residuals(moved) - here) / _DIFFERENCE

        jacobian = torch.stack(in_parallel(slope, range(len(strides))), dim=1)
        normal, gradient = (jacobian.T @ jacobian).tolist(), (jacobian.T @ found).tolist()
        for _ in range(_TRIES):
            damped = [
                [value * (1 + damping * (i == j)) for j, value in enumerate(row)]
                for i, row in enumerate(normal)
            ]
            move = solve_linear(damped, gradient)
            moved = [
                value - max(-_LONGEST_MOVE, min(_LONGEST_MOVE, by))
                for value, by in zip(strides, move, strict=True)
            ]
            if _times(schedule, moved)[-1] >= _EARLIEST:
                new = residuals(moved)
                if float(new.square().mean()) < error:
                    break
            damping *= 4
        else:
            break
        strides, found, damping = moved, new, damping / 4
        if float(found.square().mean()) > (1 - _GAIN) * error:
            break
    return [float(f"{t:.6g}") for t in _times(schedule, strides)]


def _times(schedule: Schedule, strides: Sequence[float]) -> list[float]:
    first = log_snr_at(schedule, schedule.T)
    values = itertools.accumulate((math.exp(stride) for stride in strides), initial=first)
    return [float(schedule.T), *(time_of_log_snr(schedule, v) for v in list(values)[1:])]


def solve_linear(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve a small system by Gauss's elimination; a library's last bits depend on the processor.

    Raises:
        ZeroDivisionError: If the matrix is singular.
    """
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    solution = [0.0] * n
    for k in reversed(range(n)):
        known = sum(rows[k][j] * solution[j] for j in range(k + 1, n))
        solution[k] = (rows[k][n] - known) / rows[k][k]
    return solution
