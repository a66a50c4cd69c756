"""Fitting a sampler with few steps: times and coefficients that minimise KL(sampler || truth).

The search descends as that of `ddpm.studies.optimised_spacings` does, by natural gradient: with v
the log-ratio at each point, the matrix E[dv dv'] is the Fisher information of the output about the
variables. Near a fold v has steep slopes at single points; they are bounded in the matrix, and the
gradient is that of the objective itself.

References:
    Shaul et al. 2024 (bespoke non-stationary solvers), https://arxiv.org/abs/2403.01329
"""

import itertools
import math
from collections.abc import Sequence

import torch
from tqdm import tqdm

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.bespoke import BespokeSolver
from ddpm.studies.optimised_spacings import (
    Evaluation,
    divergence_from_truth,
    solve_linear,
    times_of_strides,
)

_INCREMENT = 1e-5
# Largest slope in the Fisher information.
_STEEPEST = 1e3
# Added to the Fisher information. The estimate of x_0 at T is nearly the same everywhere, so that
# its factors have next to none.
_LEAST = 2e-4
# Largest number of dampings that are tried in one iteration, and factor between them.
_MAX_TRIES, _FACTOR = 14, 4.0
# Largest change of a variable in one iteration.
_MAX_MOVE = 1.0
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

    def evaluate(variables: Sequence[float]) -> Evaluation:
        solver = _solver(schedule, variables, len(start.times))
        return divergence_from_truth(model, solver, denoiser, n=n)(solver.times)

    variables = _variables(schedule, start)
    current, damping = evaluate(variables), 1e-2
    bar = tqdm(range(iterations), desc="fit", unit="iteration", disable=None)
    for _ in bar:
        shifted = [
            evaluate([value + _INCREMENT * (j == k) for j, value in enumerate(variables)])
            for k in range(len(variables))
        ]
        slopes = torch.stack(
            [evaluation.residuals - current.residuals for evaluation in shifted], dim=1
        )
        slopes = (slopes / _INCREMENT).clamp(-_STEEPEST, _STEEPEST)
        gradient = [(evaluation.error - current.error) / _INCREMENT for evaluation in shifted]
        information = (slopes.T @ slopes / n).tolist()
        before = current.error
        for _ in range(_MAX_TRIES):
            damped = [
                [value + (damping * value + _LEAST) * (i == j) for j, value in enumerate(row)]
                for i, row in enumerate(information)
            ]
            step = [max(-_MAX_MOVE, min(_MAX_MOVE, x)) for x in solve_linear(damped, gradient)]
            candidate = [value - change for value, change in zip(variables, step, strict=True)]
            new = evaluate(candidate)
            if new.error < before:
                break
            damping *= _FACTOR
        else:
            break
        variables, current, damping = candidate, new, damping / _FACTOR
        bar.set_postfix(objective=f"{current.error:.4f}")
        if before - current.error < _MIN_GAIN * abs(before):
            break
    return _solver(schedule, variables, len(start.times))


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
