"""Tests of `ddpm.studies.likelihood`; those of the flow's likelihood are in test_likelihood.py."""

import math

import pytest
import torch
from conftest import shipped, shipped_schedule
from exact_cases import (
    MEAN,
    NOISE,
    SCALING,
    STD,
    gaussian_distribution,
    gaussian_model,
    model_density,
    shifted,
)
from torch.distributions import Normal, kl_divergence

from ddpm.data.datasets import Spiral
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.studies import likelihood
from ddpm.studies.likelihood import measure_likelihood


def test_divergence_of_two_gaussians_is_the_closed_form() -> None:
    # The model is exact for data of another width, so its density is known.
    schedule = shipped_schedule("linear", 200)
    wider = gaussian_distribution(schedule, noise=0.7)
    measured = measure_likelihood(
        gaussian_model(wider.denoiser), n=4000, n_exact=500, tolerance=1e-5
    )
    mean, std = model_density(wider)
    expected = float(kl_divergence(Normal(MEAN, STD), Normal(mean, std)).sum())
    assert expected > 0.01
    assert measured["kl"].value == pytest.approx(expected, abs=4 * measured["kl"].se)
    # In data units the scaling's Jacobian counts.
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    assert measured["entropy"].value == pytest.approx(entropy, abs=4 * measured["entropy"].se)
    difference = measured["nll"].value - measured["entropy"].value
    assert measured["kl"].value == pytest.approx(difference)
    assert measured["t"] == 0


def test_exact_denoiser_of_the_spiral_has_no_divergence() -> None:
    schedule = shipped_schedule("linear", 1000)
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    dataset = Spiral(noise=0.02)
    exact = ExactDistribution.from_dataset(dataset, scaling, schedule)
    model = ModelUnderTest(exact.denoiser, exact, dataset, scaling, seed=0)
    measured = measure_likelihood(
        model, n=150, n_exact=150, tolerance=shipped()["measure_model"]["tolerance"]
    )
    assert abs(measured["exact_kl"].value) <= 0.001
    assert measured["exact_kl"] == measured["kl"]
    assert abs(measured["solver_error"]["exact"].value) < 0.0002


@pytest.mark.parametrize(("prediction", "noise"), [("v", 0.0), ("x0", 0.3), ("x0", 0.0)])
def test_divergence_is_measured_at_1_where_there_is_no_density_at_0(
    prediction: str, noise: float
) -> None:
    exact = gaussian_model(T=100, noise=noise)
    model = gaussian_model(shifted(exact.denoiser, prediction, 0.0), T=100, noise=noise)
    measured = measure_likelihood(model, n=200, n_exact=50, tolerance=1e-5)
    assert measured["t"] == 1
    assert abs(measured["kl"].value) < 1e-3
    a, sigma = model.schedule.levels(1)
    entropy = math.log(2 * math.pi * math.e * (a**2 * noise**2 + (sigma * SCALING.scale) ** 2))
    assert measured["entropy"].value == pytest.approx(entropy, abs=4 * measured["entropy"].se)


def test_exact_divergence_includes_the_prior_gap() -> None:
    # With this schedule x_T is not quite noise, which no model can correct.
    model = gaussian_model(T=200, name="first_principles")
    measured = measure_likelihood(model, n=2000, n_exact=2000, tolerance=1e-5)
    mean, std = model_density(model.exact)
    expected = float(kl_divergence(Normal(MEAN, STD), Normal(mean, std)).sum())
    assert expected > 0.1
    assert measured["exact_kl"].value == pytest.approx(expected, abs=4 * measured["exact_kl"].se)


def test_solver_error_is_the_distance_from_a_far_more_precise_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = gaussian_model(shifted(gaussian_model(T=60).denoiser, "v", 0.1), T=60)
    calls = []

    def recorded(
        denoiser: Denoiser, x: torch.Tensor, t: float, *, tolerance: float
    ) -> torch.Tensor:
        is_model = denoiser is model.denoiser
        calls.append((is_model, len(x), tolerance))
        # For the model it changes with the tolerance, for the exact denoiser it does not.
        return torch.full((len(x),), -tolerance if is_model else 0.0).double()

    monkeypatch.setattr(likelihood, "log_likelihood", recorded)
    measured = measure_likelihood(model, n=9, n_exact=4, tolerance=1e-3)
    assert sorted(calls) == [(False, 4, 1e-5), (False, 4, 1e-3), (True, 4, 1e-5), (True, 9, 1e-3)]
    assert measured["solver_error"] == {
        "network": (pytest.approx(1e-3 - 1e-5), pytest.approx(0, abs=1e-15)),
        "exact": (0, 0),
    }


def test_solver_error_is_the_error_of_the_likelihood() -> None:
    # A coarse tolerance, and Gaussian data, whose likelihood under the flow is known.
    model = gaussian_model(T=60)
    measured = measure_likelihood(model, n=300, n_exact=300, tolerance=3e-3)
    error = measured["solver_error"]["network"]
    mean, std = model_density(model.exact)
    x = model.noised(model.fresh(300, "measure/likelihood"), 0, "measure/likelihood")
    closed_form = Normal(mean, std).log_prob(x).sum(1).mean()
    computed = -measured["nll"].value - SCALING.log_jacobian
    assert abs(error.value) > 1e-5
    assert error.value == pytest.approx(float(closed_form) - computed, rel=0.02)
