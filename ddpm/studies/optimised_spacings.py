"""Times for a sampler with few steps, found by minimising the sampler's own error.

Where the density of the data is known, the error is KL(sampler || truth), from the exact density of
the sampler's output (`ddpm.studies.reverse_kl`). With v = log q(x_0) - log p_0(x_0), the times
t_1 = T > t_2 > ... > t_N minimise the mean of

    0.7 v + 0.3 (exp(-v) - 1 + v)

whose parts have the same mean where no mass is missed; the second, which is never negative, makes
up for the few points at which v is estimated. Large v enter through their logarithm, so that single
points do not decide, and a fold costs as much as a v of 8.

Where it is not known, the error is the distance d between the points to which the sampler and the
converged probability flow take the same x_T: the mean of |d|^2 / (1 + |d|^2 / reach^2).

The search begins with the best of a few spacings that are powers in log SNR,

    log SNR_k = log SNR_T + (log SNR_end - log SNR_T) (k / (N - 1))^p

and goes on with Levenberg-Marquardt. Its variables are the logarithms of the strides in log SNR, so
that the times stay in order. For KL, the matrix of squared slopes of v is the Fisher information of
the sampler's output about its times, so that a step is one of natural gradient descent.

References:
    Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507
    Marquardt 1963, https://doi.org/10.1137/0111030
    Amari 1998 (natural gradient), https://doi.org/10.1162/089976698300017746
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel, log, sqrt, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import OPTIMISED, sampling_times
from ddpm.studies.reverse_kl import reverse_kl

Points = Float64[Tensor, "n 2"]
Residuals = Float64[Tensor, " m"]

# Bound on the distance, model units: somewhat more than the width of the spiral's line (0.035).
_REACH = 0.05
# Weight of exp(-v) - 1 + v, and the range of v outside of which the error grows more slowly.
_POSITIVE_PART, _LOWEST, _HIGHEST = 0.3, -4.0, 8.0
# Starts of the search: noise levels sigma_ve at the last time, and exponents.
_ENDS = (0.005, 0.01, 0.02, 0.04, 0.08)
_EXPONENTS = (0.4, 0.5, 0.6, 0.75, 1.0)
# Largest number of dampings that are tried in one iteration.
_MAX_TRIES = 6
# Increment of a variable in the finite differences of the Jacobian.
_INCREMENT = 1e-3
# Stop when an iteration reduces the error by less than this fraction.
_MIN_GAIN = 0.02
# Smallest time of a step: below it, hardly any noise is left to remove.
_EARLIEST = 0.01
# Largest change of a variable in one iteration, and largest derivative of a residual.
_MAX_MOVE, _STEEPEST = 1.0, 1e3


class Evaluation(NamedTuple):
    """The error of a sampler with given times.

    Attributes:
        error: What is minimised.
        residuals: What it is a function of: v at each point, or a bounded distance.
        slopes: Derivative of the error with respect to each residual, but for a common factor.
    """

    error: float
    residuals: Residuals
    slopes: Residuals


Objective = Callable[[Sequence[float]], Evaluation]


def optimised_spacings(
    model: ModelUnderTest,
    sampler: Sampler,
    steps: Sequence[int],
    *,
    n: int,
    tolerance: float,
    iterations: int,
) -> dict[str, dict[str, list[float]]]:
    """Optimise the times for several numbers of steps.

    Args:
        model: The model, and the exact distribution.
        sampler: A deterministic sampler.
        steps: Numbers of steps.
        n: Number of points x_T from which the sampler starts.
        tolerance: Tolerance of the converged flow, where the density of the data is not known.
        iterations: Largest number of iterations of each search.

    Returns:
        Times by the name of the spacing and the number of steps. The spacing `optimised_truth` is
        for the exact denoiser, `optimised_model` for the network.
    """
    denoisers = dict(zip(OPTIMISED, (model.exact.denoiser, model.denoiser), strict=True))
    spacings: dict[str, dict[str, list[float]]] = {}
    for name, denoiser in denoisers.items():
        if model.noise > 0:
            objective = divergence_from_truth(model, sampler, denoiser, n=n)
        else:
            objective = distance_from_flow(model, sampler, denoiser, n=n, tolerance=tolerance)
        spacings[name] = {
            str(count): optimise(objective, model.schedule, count, iterations=iterations)
            for count in tqdm(steps, desc=name, unit="spacing", disable=None)
        }
    return spacings


def divergence_from_truth(
    model: ModelUnderTest, sampler: Sampler, denoiser: Denoiser, *, n: int
) -> Objective:
    """KL(sampler || truth) on n points, as the module describes it."""

    def evaluate(times: Sequence[float]) -> Evaluation:
        measured = reverse_kl(model, sampler, denoiser, times, n=n, name="optimise/noise")
        v, w = measured.log_ratios, _POSITIVE_PART
        inner = v.clamp(_LOWEST, _HIGHEST)
        decay = torch.exp(-inner)
        slopes = 1 - w * decay
        errors = inner - w * (1 - decay) + slopes * (v - inner).clamp(max=0)
        # Above the range: log(v / highest) with the same slope there.
        above = (v / _HIGHEST).clamp(min=1)
        errors = errors + _HIGHEST * slopes * log(above) + _HIGHEST * measured.reversed
        return Evaluation(float(errors.mean()), v, slopes / above)

    return evaluate


def distance_from_flow(
    model: ModelUnderTest, sampler: Sampler, denoiser: Denoiser, *, n: int, tolerance: float
) -> Objective:
    """Bounded distance of the sampler's end points from those of the flow, on n points."""
    generator = stream(model.seed, "optimise/noise")
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    targets = flow_samples(denoiser, x_T, noise=model.noise, tolerance=tolerance)

    @torch.no_grad()
    def evaluate(times: Sequence[float]) -> Evaluation:
        x = run_sampler(sampler, denoiser, x_T, times, generator=generator).x
        squared = (x - targets).square().sum(1, keepdim=True)
        residuals = ((x - targets) / sqrt(1 + squared / _REACH**2)).flatten()
        return Evaluation(float(residuals.square().mean()), residuals, residuals)

    return evaluate


def optimise(
    objective: Objective, schedule: Schedule, steps: int, *, iterations: int
) -> list[float]:
    """Choose all times but the first, which is T, so that the objective is as small as possible.

    Args:
        objective: Maps decreasing times to the error of the sampler.
        schedule: Noise schedule.
        steps: Number of times.
        iterations: Largest number of iterations.

    Returns:
        Decreasing times, rounded to six digits.
    """
    starts = [
        strides
        for end, power in itertools.product(_ENDS, _EXPONENTS if steps > 1 else ())
        if (strides := _power_strides(schedule, steps, end, power)) is not None
    ]
    if not starts:
        # There is nothing to choose, or too little noise at T for a spacing in log SNR.
        return sampling_times("trailing", schedule, steps)
    evaluations = in_parallel(lambda start: objective(times_of_strides(schedule, start)), starts)
    best = min(range(len(starts)), key=lambda k: evaluations[k].error)
    strides, current, damping = starts[best], evaluations[best], 1e-2
    for _ in range(iterations):
        jacobian = _jacobian(objective, schedule, strides, current)
        normal = (jacobian.T @ jacobian).tolist()
        gradient = (jacobian.T @ current.slopes).tolist()
        before = current.error
        if not any(gradient):
            break
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
            if times_of_strides(schedule, moved)[-1] >= _EARLIEST:
                new = objective(times_of_strides(schedule, moved))
                if new.error < before:
                    break
            damping *= 4
        else:
            break
        strides, current, damping = moved, new, damping / 4
        if before - current.error < _MIN_GAIN * abs(before):
            break
    return [float(f"{t:.6g}") for t in times_of_strides(schedule, strides)]


def _power_strides(schedule: Schedule, steps: int, end: float, power: float) -> list[float] | None:
    """Logarithms of the strides of a power in log SNR; None if its end is not above that of T."""
    first, last = schedule.log_snr_at(schedule.T), -2 * math.log(end)
    if last <= first or schedule.time_of_log_snr(last) < _EARLIEST:
        return None
    parts = [(k / (steps - 1)) ** power for k in range(steps)]
    return [math.log((last - first) * (b - a)) for a, b in itertools.pairwise(parts)]


def _jacobian(
    objective: Objective, schedule: Schedule, strides: Sequence[float], current: Evaluation
) -> Float64[Tensor, "m k"]:
    """Derivative of the residuals with respect to the strides, by forward differences."""

    def column(k: int) -> Residuals:
        moved = [stride + _INCREMENT * (k == j) for j, stride in enumerate(strides)]
        difference = objective(times_of_strides(schedule, moved)).residuals - current.residuals
        # Near a fold a residual is not smooth.
        return (difference / _INCREMENT).clamp(-_STEEPEST, _STEEPEST)

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


def times_of_strides(schedule: Schedule, strides: Sequence[float]) -> list[float]:
    """Times from T on whose log SNRs are exp(stride) apart."""
    start = schedule.log_snr_at(schedule.T)
    log_snrs = itertools.accumulate((math.exp(stride) for stride in strides), initial=start)
    return [float(schedule.T), *(schedule.time_of_log_snr(value) for value in list(log_snrs)[1:])]
