"""Times for a sampler with few steps, found by minimising the sampler's own error.

From the same x_T, the sampler and the converged probability flow end at points that differ by d.
The times t_1 = T > t_2 > ... > t_N minimise

    mean of |d|^2 / (1 + |d|^2 / reach^2)

which is bounded, so that points that end on another winding of the spiral do not dominate the mean.
The method is Levenberg-Marquardt. Its variables are the logarithms of the strides in log SNR, so
that the times stay in order.

References:
    Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507
    Marquardt 1963, https://doi.org/10.1137/0111030
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel, sqrt, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import OPTIMISED, sampling_times

Points = Float64[Tensor, "n 2"]
Residuals = Float64[Tensor, " m"]

# Bound on the error, model units: somewhat more than the width of the spiral's line (0.035).
_REACH = 0.05
_MAX_ITERATIONS, _MAX_TRIES = 15, 6
# Increment of a variable in the finite differences of the Jacobian.
_INCREMENT = 1e-3
# Stop when an iteration reduces the error by less than this fraction.
_MIN_GAIN = 1e-3
# Smallest time of a step: below it, hardly any noise is left to remove.
_EARLIEST = 0.01
# Largest change of a variable in one iteration.
_MAX_MOVE = 1.0


def optimised_spacings(
    model: ModelUnderTest, sampler: Sampler, steps: Sequence[int], *, n: int, tolerance: float
) -> dict[str, dict[str, list[float]]]:
    """Optimise the times for several numbers of steps.

    Args:
        model: The model, and the exact distribution.
        sampler: A deterministic sampler.
        steps: Numbers of steps.
        n: Number of points x_T from which the sampler and the flow start.
        tolerance: Tolerance of the converged flow.

    Returns:
        Times by the name of the spacing and the number of steps. The spacing `optimised_truth` is
        for the exact denoiser, `optimised_model` for the network.
    """
    generator = stream(model.seed, "optimise/noise")
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    denoisers = dict(zip(OPTIMISED, (model.exact.denoiser, model.denoiser), strict=True))
    spacings: dict[str, dict[str, list[float]]] = {}
    for name, denoiser in denoisers.items():
        targets = flow_samples(denoiser, x_T, noise=model.noise, tolerance=tolerance)
        spacings[name] = {}
        for count in tqdm(steps, desc=name, unit="spacing", disable=None):
            start = sampling_times("log_snr", denoiser.schedule, count)
            spacings[name][str(count)] = optimise(sampler, denoiser, start, x_T, targets)
    return spacings


def optimise(
    sampler: Sampler, denoiser: Denoiser, times: Sequence[float], x_T: Points, targets: Points
) -> list[float]:
    """Choose all times but the first so that the sampler ends as near to the targets as possible.

    Args:
        sampler: A deterministic sampler.
        denoiser: The denoiser of a network, or the exact one.
        times: Decreasing times with which the search begins; the first is T.
        x_T: Points at T, model units.
        targets: Where the converged flow takes these points.

    Returns:
        The same number of decreasing times, rounded to six digits.
    """
    schedule = denoiser.schedule
    log_snrs = [schedule.log_snr_at(t) for t in times]
    strides = [math.log(after - before) for before, after in itertools.pairwise(log_snrs)]

    @torch.no_grad()
    def residuals(strides: Sequence[float]) -> Residuals:
        times, generator = _times(schedule, strides), stream(0, "optimise")
        difference = run_sampler(sampler, denoiser, x_T, times, generator=generator).x - targets
        squared = difference.square().sum(1, keepdim=True)
        return (difference / sqrt(1 + squared / _REACH**2)).flatten()

    current, damping = residuals(strides), 1e-2
    for _ in range(_MAX_ITERATIONS if strides else 0):
        error = float(current.square().mean())
        jacobian = _jacobian(residuals, strides, current)
        normal, gradient = (jacobian.T @ jacobian).tolist(), (jacobian.T @ current).tolist()
        # Increase the damping until a move reduces the error; give up after a few tries.
        for _ in range(_MAX_TRIES):
            damped = [
                [value * (1 + damping * (i == j)) for j, value in enumerate(row)]
                for i, row in enumerate(normal)
            ]
            moved = [
                stride - max(-_MAX_MOVE, min(_MAX_MOVE, move))
                for stride, move in zip(strides, solve_linear(damped, gradient), strict=True)
            ]
            if _times(schedule, moved)[-1] >= _EARLIEST:
                new = residuals(moved)
                if float(new.square().mean()) < error:
                    break
            damping *= 4
        else:
            break
        strides, current, damping = moved, new, damping / 4
        if float(current.square().mean()) > (1 - _MIN_GAIN) * error:
            break
    return [float(f"{t:.6g}") for t in _times(schedule, strides)]


def _jacobian(
    function: Callable[[Sequence[float]], Residuals], strides: Sequence[float], current: Residuals
) -> Float64[Tensor, "m k"]:
    """Derivative of the residuals with respect to the strides, by forward differences."""

    def column(k: int) -> Residuals:
        moved = [stride + _INCREMENT * (k == j) for j, stride in enumerate(strides)]
        return (function(moved) - current) / _INCREMENT

    return torch.stack(in_parallel(column, range(len(strides))), dim=1)


def solve_linear(
    matrix: Sequence[Sequence[float]], right_hand_side: Sequence[float]
) -> list[float]:
    """Solve a small linear system by Gaussian elimination.

    `torch.linalg.solve` gives other last bits, which the rounding of a float32 network amplifies
    until they change the third digit of the optimised times.

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


def _times(schedule: Schedule, strides: Sequence[float]) -> list[float]:
    """Times from T on whose log SNRs are exp(stride) apart."""
    start = schedule.log_snr_at(schedule.T)
    log_snrs = itertools.accumulate((math.exp(stride) for stride in strides), initial=start)
    return [float(schedule.T), *(schedule.time_of_log_snr(value) for value in list(log_snrs)[1:])]
