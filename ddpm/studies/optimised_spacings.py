"""Times for a sampler with few steps, found by minimising the sampler's own error.

Where the density of the data is known, the error is KL(sampler || truth), from the exact density of
the sampler's output (`ddpm.studies.reverse_kl`). With v = log q(x_0) - log p_0(x_0), the times
t_1 = T > t_2 > ... > t_N minimise the mean of

    0.3 v + 0.7 (exp(-v) - 1 + v)

whose parts have the same mean where no mass is missed; the second, which is never negative, makes
up for the few points at which v is estimated. The x_T are Sobol points, for the same reason. Large
v enter through their logarithm, so that single points do not decide, and a fold costs as much as a
v of 8.

Where it is not known, the error is the distance d between the points to which the sampler and the
converged probability flow take the same x_T: the mean of |d|^2 / (reach^2 + |d|^2).

The search begins with the best of a few spacings that are powers in log SNR,

    log SNR_k = log SNR_T + (log SNR_end - log SNR_T) (k / (N - 1))^p

and goes on with natural gradient descent (`ddpm.studies.natural_gradient`). Its variables are the
logarithms of the strides in log SNR, so that the times stay in order.

References:
    Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel, log, sobol_normal, sqrt
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import OPTIMISED, sampling_times
from ddpm.studies.natural_gradient import Evaluation, descend
from ddpm.studies.reverse_kl import reverse_kl_from

Points = Float64[Tensor, "n 2"]

# Bound on the distance, model units: somewhat more than the width of the spiral's line (0.035).
_REACH = 0.05
# Weight of exp(-v) - 1 + v, and the range of v outside of which the error grows more slowly.
_POSITIVE_PART, _LOWEST, _HIGHEST = 0.7, -4.0, 8.0
# Starts of the search: noise levels sigma_ve at the last time, and exponents.
_ENDS = (0.005, 0.01, 0.02, 0.04, 0.08)
_EXPONENTS = (0.4, 0.5, 0.6, 0.8)
# Stop when an iteration reduces the error by less than this fraction.
_MIN_GAIN = 0.02
# Smallest time of a step: below it, hardly any noise is left to remove.
_EARLIEST = 0.01


# Maps decreasing times to the error of a sampler.
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
    """KL(sampler || truth) on n Sobol points, as the module describes it."""
    return partial(divergence_on, sobol_normal(n, model.seed), model, sampler, denoiser)


def divergence_on(
    x_T: Points,
    model: ModelUnderTest,
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
) -> Evaluation:
    """KL(sampler || truth) on given points, as the module describes it."""
    measured = reverse_kl_from(x_T, model, sampler, denoiser, times)
    v, w = measured.log_ratios, _POSITIVE_PART
    inner = v.clamp(_LOWEST, _HIGHEST)
    decay = torch.exp(-inner)
    slopes = 1 - w * decay
    errors = inner - w * (1 - decay) + slopes * (v - inner).clamp(max=0)
    # Above the range: log(v / highest) with the same slope there.
    above = (v / _HIGHEST).clamp(min=1)
    errors = errors + _HIGHEST * slopes * log(above) + _HIGHEST * measured.reversed
    return Evaluation(float(errors.mean()), v)


def distance_from_flow(
    model: ModelUnderTest, sampler: Sampler, denoiser: Denoiser, *, n: int, tolerance: float
) -> Objective:
    """Bounded distance of the sampler's end points from those of the flow, on n points."""
    x_T, denoiser = sobol_normal(n, model.seed), denoiser.double()
    targets = flow_samples(denoiser, x_T, noise=model.noise, tolerance=tolerance)

    @torch.no_grad()
    def evaluate(times: Sequence[float]) -> Evaluation:
        x = run_sampler(sampler, denoiser, x_T, times, generator=torch.Generator()).x
        squared = (x - targets).square().sum(1, keepdim=True)
        residuals = ((x - targets) / sqrt(_REACH**2 + squared)).flatten()
        # The curvature of a mean square is twice the mean of the squared slopes.
        return Evaluation(float(residuals.square().mean()), math.sqrt(2) * residuals)

    return evaluate


def optimise(
    objective: Objective, schedule: Schedule, steps: int, *, iterations: int, descents: int = 1
) -> list[float]:
    """Choose all times but the first, which is T, so that the objective is as small as possible.

    Args:
        objective: Maps decreasing times to the error of the sampler.
        schedule: Noise schedule.
        steps: Number of times.
        iterations: Largest number of iterations of each descent.
        descents: Number of descents, from the best starts; their best end is returned.

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

    def evaluate(strides: Sequence[float]) -> Evaluation | None:
        times = times_of_strides(schedule, strides)
        return objective(times) if times[-1] >= _EARLIEST else None

    def error_of(strides: Sequence[float]) -> float:
        return objective(times_of_strides(schedule, strides)).error

    errors = in_parallel(error_of, starts)
    best = sorted(range(len(starts)), key=errors.__getitem__)[:descents]
    end = min(descend(evaluate, starts[k], iterations=iterations, min_gain=_MIN_GAIN) for k in best)
    return [float(f"{t:.6g}") for t in times_of_strides(schedule, end.variables)]


def _power_strides(schedule: Schedule, steps: int, end: float, power: float) -> list[float] | None:
    """Logarithms of the strides of a power in log SNR; None if its end is not above that of T."""
    first, last = schedule.log_snr_at(schedule.T), -2 * math.log(end)
    if last <= first or schedule.time_of_log_snr(last) < _EARLIEST:
        return None
    parts = [(k / (steps - 1)) ** power for k in range(steps)]
    return [math.log((last - first) * (b - a)) for a, b in itertools.pairwise(parts)]


def times_of_strides(schedule: Schedule, strides: Sequence[float]) -> list[float]:
    """Times from T on whose log SNRs are exp(stride) apart."""
    start = schedule.log_snr_at(schedule.T)
    log_snrs = itertools.accumulate((math.exp(stride) for stride in strides), initial=start)
    return [float(schedule.T), *(schedule.time_of_log_snr(value) for value in list(log_snrs)[1:])]
