"""Fitting a sampler with few steps: times and coefficients that minimise KL(sampler || truth).

The search is natural gradient descent: see `ddpm.studies.natural_gradient`.

References:
    Shaul et al. 2024 (bespoke non-stationary solvers), https://arxiv.org/abs/2403.01329
"""

import itertools
import math
from collections.abc import Sequence

import torch

from ddpm.core.compute import sobol_normal
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.bespoke import BespokeSolver
from ddpm.studies.natural_gradient import Evaluation, descend
from ddpm.studies.optimised_spacings import divergence_on, times_of_strides

# Stop when an iteration reduces the objective by less than this fraction.
_MIN_GAIN = 2e-4


def fit_bespoke(
    model: ModelUnderTest, denoiser: Denoiser, start: BespokeSolver, *, n: int, iterations: int
) -> BespokeSolver:
    """Fit all times but the first, which is T, and all coefficients.

    Args:
        model: Supplies the exact density of the data, which must have noise.
        denoiser: The denoiser that the solver is for.
        start: Where the search begins, such as `BespokeSolver.like(ddpm.UniPC(), ...)`.
        n: Number of points x_T; there are N (N + 5) / 2 - 1 variables for N steps.
        iterations: Largest number of iterations.
    """
    schedule, denoiser = model.schedule, denoiser.double()
    x_T = sobol_normal(n, model.seed)

    def evaluate(variables: Sequence[float]) -> Evaluation:
        solver = _solver(schedule, variables, len(start.times))
        return divergence_on(x_T, model, solver, denoiser, solver.times)

    variables = _variables(schedule, start)
    end = descend(evaluate, variables, iterations=iterations, min_gain=_MIN_GAIN)
    return _solver(schedule, end.variables, len(start.times))


def perturbed(
    solver: BespokeSolver, schedule: Schedule, *, deviation: float, generator: torch.Generator
) -> BespokeSolver:
    """Add normal noise to all variables of the search, so that it may end elsewhere."""
    variables = torch.tensor(_variables(schedule, solver), dtype=torch.float64)
    noise = torch.randn(len(variables), dtype=torch.float64, generator=generator)
    return _solver(schedule, (variables + deviation * noise).tolist(), len(solver.times))


def _variables(schedule: Schedule, solver: BespokeSolver) -> list[float]:
    """Logarithms of the strides in log SNR, and the coefficients."""
    log_snrs = [schedule.log_snr_at(t) for t in solver.times]
    strides = [math.log(b - a) for a, b in itertools.pairwise(log_snrs)]
    return [*strides, *itertools.chain.from_iterable(solver.coefficients)]


def _solver(schedule: Schedule, variables: Sequence[float], steps: int) -> BespokeSolver:
    times, values = times_of_strides(schedule, variables[: steps - 1]), iter(variables[steps - 1 :])
    rows = [tuple(itertools.islice(values, k + 2)) for k in range(steps)]
    return BespokeSolver(times=tuple(times), coefficients=tuple(rows))
