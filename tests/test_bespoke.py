"""A solver with free coefficients: that of any other sampler, and one that is fitted."""

import json
from typing import Any

import pytest
import torch
from exact_cases import gaussian_model
from pydantic import ValidationError

import ddpm
from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.sampling.bespoke import BespokeSolver
from ddpm.sampling.multistep import DPMSolver2M, DPMSolver3M, UniPC
from ddpm.sampling.one_step import DDIM, DDPM, ODE, Heun
from ddpm.sampling.sampler import Sampler
from ddpm.studies.bespoke import fit_bespoke
from ddpm.studies.reverse_kl import reverse_kl

MODEL = gaussian_model(T=100)
TIMES = ddpm.sampling_times("log_snr", MODEL.schedule, 5)


@pytest.mark.parametrize("sampler", [DDIM(eta=0), DPMSolver2M(), DPMSolver3M(), UniPC()])
def test_it_does_what_a_known_sampler_does(sampler: Sampler) -> None:
    solver = BespokeSolver.like(sampler, MODEL.schedule, TIMES)
    spiral = ddpm.ExactDistribution.from_dataset(
        ddpm.Spiral(noise=0.05), ddpm.Scaling(torch.zeros(2).double(), 0.6), MODEL.schedule
    )
    x_T = torch.randn(50, 2, dtype=torch.float64, generator=stream(0, "x_T"))
    ours, theirs = (
        ddpm.run_sampler(which, spiral.denoiser, x_T, TIMES, generator=torch.Generator())
        for which in (solver, sampler)
    )
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-9, atol=1e-9)
    assert ours.evaluations == 5
    assert BespokeSolver.model_validate(json.loads(solver.model_dump_json())) == solver


@pytest.mark.parametrize("of", ["exact", "network"])
def test_a_fitted_solver_is_nearer_to_the_truth_on_points_that_were_not_used(of: str) -> None:
    denoiser = MODEL.exact.denoiser if of == "exact" else MODEL.denoiser
    times = TIMES[::2]
    start = BespokeSolver.like(DDIM(eta=0), MODEL.schedule, times)
    fitted = fit_bespoke(MODEL, denoiser, start, n=100, iterations=6)
    before, after = (
        reverse_kl(MODEL, solver, denoiser, solver.times, n=2000, name="other points")
        for solver in (start, fitted)
    )
    assert after.value.value < before.value.value / 20
    assert after.folded == 0
    assert fitted.times[0] == MODEL.schedule.T
    # On Gaussian data one step is enough, if its coefficients are right.
    assert after.value.value < 4 * after.value.se + 1e-3


def test_samplers_without_fixed_coefficients_are_refused() -> None:
    for sampler in (DDPM(variance="posterior"), ODE(tolerance=1e-2)):
        with pytest.raises(UserError, match="has no fixed coefficients"):
            BespokeSolver.like(sampler, MODEL.schedule, TIMES)
    with pytest.raises(UserError, match="Heun has more evaluations than times"):
        BespokeSolver.like(Heun(churn=0), MODEL.schedule, TIMES)


def test_it_refuses_to_run_at_other_times() -> None:
    solver = BespokeSolver.like(UniPC(), MODEL.schedule, TIMES)
    for times in ([*TIMES[:-1], TIMES[-1] / 2], [*TIMES, TIMES[-1] / 2]):
        with pytest.raises(UserError, match="coefficients for its own times alone; pass its"):
            ddpm.draw_samples(solver, MODEL.exact.denoiser, times, n=3, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"times": [], "coefficients": []}, "there are 0 times"),
        ({"times": [5, 9], "coefficients": [[1, 0], [1, 0, 0]]}, "the times should decrease"),
        ({"times": [9, 5], "coefficients": [[1, 0], [1, 0]]}, "a row for each time"),
    ],
)
def test_wrong_shapes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BespokeSolver.model_validate(values)
