import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import STD, gaussian_distribution, gaussian_model, shifted
from torch import Tensor

from ddpm.core import compute
from ddpm.core.compute import stream
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.process import prior_gap
from ddpm.reference.distribution import ExactDistribution
from ddpm.studies.denoising import (
    bound_totals,
    denoising_by_time,
    denoising_totals,
    log_spaced,
    measure_denoising,
)
from ddpm.studies.likelihood import measure_likelihood


def gaussian_points(T: int = 60, n: int = 700) -> tuple[ExactDistribution, Tensor]:
    exact = gaussian_distribution(shipped_schedule("linear", T))
    return exact, exact.sample(n, 0, generator=stream(0, "clean"))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_excess_is_the_square_of_a_constant_mistake(prediction: str) -> None:
    exact, x0 = gaussian_points()
    errors = measure_denoising(shifted(exact.denoiser, prediction, 0.1), exact.denoiser, x0, seed=0)
    assert errors.by_time.excess.tolist() == pytest.approx([0.01] * 60)
    assert errors.by_point.excess.tolist() == pytest.approx([0.01] * len(x0))
    # In expectation the loss is the sum of the least possible loss and the excess.
    remainder = errors.by_point.loss - errors.by_point.optimal - errors.by_point.excess
    assert abs(float(remainder.mean())) < 4 * float(remainder.std()) / math.sqrt(len(x0))
    assert float(errors.by_time.loss.mean()) == pytest.approx(float(errors.by_point.loss.mean()))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_least_possible_loss_of_gaussian_data_is_the_closed_form(prediction: str) -> None:
    exact, x0 = gaussian_points(n=2000)
    errors = measure_denoising(shifted(exact.denoiser, prediction, 0.0), exact.denoiser, x0, seed=0)
    for t in (1, 20, 60):
        a, sigma = exact.schedule.levels(t)
        # The variance of x_0 given x_t. Given x_t, eps and v are linear in x_0.
        variance = STD**2 * sigma**2 / (a**2 * STD**2 + sigma**2)
        factor = {"x0": 1, "eps": a / sigma, "v": 1 / sigma}[prediction]
        expected = variance * factor**2
        assert float(errors.by_time.optimal[t - 1]) == pytest.approx(
            expected, rel=4 * math.sqrt(2 / 4000)
        )
        assert float(errors.by_time.excess[t - 1]) == pytest.approx(0, abs=1e-20 / sigma**4)


def test_bound_of_gaussian_data_is_the_closed_form() -> None:
    exact, x0 = gaussian_points(n=4000)
    errors = measure_denoising(exact.denoiser, exact.denoiser, x0, seed=0)
    schedule = exact.schedule
    snr = [math.inf] + [math.exp(float(schedule.log_snr[t])) for t in range(1, 61)]

    def squared_error(t: int) -> float:
        return 2 * STD**2 / (snr[t] * STD**2 + 1)

    steps = sum((snr[t - 1] - snr[t]) / 2 * squared_error(t) for t in range(2, 61))
    decoder = math.log(2 * math.pi / snr[1]) + snr[1] / 2 * squared_error(1)
    expected = {"steps": steps, "decoder": decoder, "prior": float(prior_gap(schedule, x0).mean())}
    for name, value in expected.items():
        term = getattr(errors.bound, name)
        assert float(term.mean()) == pytest.approx(
            value, abs=4 * float(term.std()) / math.sqrt(4000) + 1e-12
        )
    assert torch.equal(errors.bound.total, errors.best_bound.total)
    total = float(errors.bound_by_time.sum()) + float(errors.bound.prior.mean())
    assert total == pytest.approx(float(errors.bound.total.mean()))
    assert float(errors.bound_by_time[0]) == pytest.approx(float(errors.bound.decoder.mean()))
    # No bound on -log p lies below the entropy.
    entropy = math.log(2 * math.pi * math.e * STD**2)
    assert sum(expected.values()) > entropy


def test_more_steps_tighten_the_bound() -> None:
    means = []
    for T in (40, 160):
        exact, x0 = gaussian_points(T, n=1000)
        errors = measure_denoising(exact.denoiser, exact.denoiser, x0, seed=0)
        means.append(float(errors.bound.total.mean()))
    assert means[1] < means[0]


def test_excess_in_nats_is_the_difference_of_the_bounds() -> None:
    exact, x0 = gaussian_points(n=3000)
    errors = measure_denoising(shifted(exact.denoiser, "v", 0.1), exact.denoiser, x0, seed=0)
    difference = errors.bound.total - errors.best_bound.total
    se = float(difference.std()) / math.sqrt(3000)
    mean_nats = float(errors.nats_by_point.mean())
    assert float(difference.mean()) == pytest.approx(mean_nats, abs=4 * se)
    assert float(errors.nats_by_time.sum()) == pytest.approx(mean_nats)
    # A mistake w in v is a mistake of -sigma w in x0_hat.
    snr = exact.schedule.log_snr.exp()
    sigma = exact.schedule.sigma
    for t in (2, 30):
        expected = float((snr[t - 1] - snr[t]) / 2 * sigma[t] ** 2 * 2 * 0.1**2)
        assert float(errors.nats_by_time[t - 1]) == pytest.approx(expected)


def test_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, x0 = gaussian_points(T=30)
    model = shifted(exact.denoiser, "v", 0.1)
    results = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(compute, "cores", lambda cores=cores: cores)
        errors = measure_denoising(model, exact.denoiser, x0, seed=0)
        results.append(torch.cat([errors.by_time.loss, errors.bound.total, errors.nats_by_point]))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("T", [1, 2, 30, 1000])
def test_log_spaced_times_are_distinct_and_reach_from_one_to_the_end(T: int) -> None:
    times = log_spaced(T, 40)
    assert times[0] == 1
    assert times[-1] == T
    assert len(times) == len(set(times)) <= 40
    assert times == sorted(times)


def test_rows_over_time_cover_every_step_once() -> None:
    model = gaussian_model(T=50)
    errors = measure_denoising(
        shifted(model.denoiser, "v", 0.1), model.exact.denoiser, model.fresh(40, "x"), seed=0
    )
    columns = denoising_by_time(errors, 50, rows=12)
    assert len(columns["t"]) < 50
    ends = [*columns["t"][1:], 51]
    for name, by_time in (
        ("loss", errors.by_time.loss),
        ("optimal", errors.by_time.optimal),
        ("excess", errors.by_time.excess),
        ("excess_nats", errors.nats_by_time),
        ("bound_nats", errors.bound_by_time),
    ):
        rows = zip(columns["t"], ends, columns[name], strict=True)
        total = sum((end - start) * mean for start, end, mean in rows)
        assert total == pytest.approx(float(by_time.sum()))


def test_bound_in_data_units_lies_above_the_negative_log_likelihood() -> None:
    model = gaussian_model(T=200)
    errors = measure_denoising(
        model.denoiser, model.exact.denoiser, model.fresh(500, "bound"), seed=0
    )
    bound = bound_totals(errors, model)
    likelihood = measure_likelihood(model, n=500, n_exact=10, tolerance=1e-4)
    assert bound["bound"].value > likelihood["nll"].value
    total = sum(term.value for term in bound["bound_terms"].values())
    assert total == pytest.approx(bound["bound"].value)
    assert bound["best_bound"] == bound["bound"]
    assert denoising_totals(errors)["excess"].value < 1e-25
