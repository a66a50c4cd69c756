import math
from dataclasses import replace

import pytest
import torch
from conftest import shipped, shipped_schedule
from exact_cases import (
    MEAN,
    NOISE,
    SCALING,
    STD,
    gaussian_subject,
    gaussian_truth,
    model_density,
    shifted,
)
from torch.distributions import Normal, kl_divergence

from ddpm import measurement
from ddpm.datasets import SPIRAL, Scaling
from ddpm.denoising import denoise
from ddpm.measurement import (
    bound_totals,
    denoising_by_time,
    denoising_totals,
    density_fields,
    likelihood,
    log_spaced,
    memory,
    score_fields,
    verdict,
)
from ddpm.metrics import Mean
from ddpm.process import Denoiser
from ddpm.runtime import stream
from ddpm.subject import Subject
from ddpm.truth import Truth


def test_times_are_whole_and_reach_from_one_to_the_end() -> None:
    for T in (1, 2, 30, 1000):
        times = log_spaced(T, 40)
        assert times[0] == 1
        assert times[-1] == T
        assert len(times) == len(set(times)) <= 40


def test_rows_over_time_cover_every_step_once() -> None:
    subject = gaussian_subject(T=50)
    wrong = shifted(subject.denoiser, "v", 0.1)
    found = denoise(wrong, subject.truth.denoiser, subject.fresh(40, "x"), seed=0)
    columns = denoising_by_time(found, 50, rows=12)
    ends = [*columns["t"][1:], 51]
    for name, by_time in (("loss", found.by_time.loss), ("excess_nats", found.nats_by_time)):
        total = sum((b - a) * m for a, b, m in zip(columns["t"], ends, columns[name], strict=True))
        assert total == pytest.approx(float(by_time.sum()))


def test_the_kl_of_two_gaussians_is_the_closed_form() -> None:
    # The model is exact for data of another width: what its flow makes of N(0, I) is known.
    schedule = shipped_schedule("linear", 200)
    other = gaussian_truth(schedule, noise=0.7)
    subject = gaussian_subject(other.denoiser)
    found = likelihood(subject, n=4000, n_exact=500, tolerance=1e-5)
    mean, std = model_density(other)
    expected = float(kl_divergence(Normal(MEAN, STD), Normal(mean, std)).sum())
    assert expected > 0.01
    assert found["kl"].value == pytest.approx(expected, abs=4 * found["kl"].se)
    # In data units the scaling's Jacobian counts.
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    assert found["entropy"].value == pytest.approx(entropy, abs=4 * found["entropy"].se)
    assert found["kl"].value == pytest.approx(found["nll"].value - found["entropy"].value)
    assert found["t"] == 0


def test_the_exact_spiral_through_the_whole_chain_has_no_divergence() -> None:
    schedule = shipped_schedule("linear", 1000)
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    truth = Truth.of_curves([(1.0, SPIRAL)], 0.02, scaling, schedule)
    subject = Subject(truth.denoiser, truth, scaling, 0.02, seed=0)
    found = likelihood(subject, n=300, n_exact=300, tolerance=shipped()["evaluate"]["tolerance"])
    assert abs(found["exact_kl"].value) <= 0.001
    assert found["exact_kl"] == found["kl"]
    assert found["solver_error"]["exact"] < 0.0002


@pytest.mark.parametrize(("prediction", "noise"), [("v", 0.0), ("x0", 0.3), ("x0", 0.0)])
def test_where_there_is_no_density_at_0_the_divergence_is_at_1(
    prediction: str, noise: float
) -> None:
    exact = gaussian_subject(T=100, noise=noise)
    model = shifted(exact.denoiser, prediction, 0.0)
    subject = gaussian_subject(model, T=100, noise=noise)
    found = likelihood(subject, n=200, n_exact=50, tolerance=1e-5)
    assert found["t"] == 1
    assert abs(found["kl"].value) < 1e-3
    a, sigma = subject.truth.schedule.levels(1)
    entropy = math.log(2 * math.pi * math.e * (a**2 * noise**2 + (sigma * SCALING.scale) ** 2))
    assert found["entropy"].value == pytest.approx(entropy, abs=4 * found["entropy"].se)


def test_the_bound_lies_above_the_likelihood() -> None:
    subject = gaussian_subject(T=200)
    measured = denoise(subject.denoiser, subject.truth.denoiser, subject.fresh(500, "b"), seed=0)
    bound = bound_totals(measured, subject)
    found = likelihood(subject, n=500, n_exact=10, tolerance=1e-4)
    assert bound["bound"].value > found["nll"].value
    total = sum(term.value for term in bound["bound_terms"].values())
    assert total == pytest.approx(bound["bound"].value)
    assert bound["best_bound"] == bound["bound"]
    assert denoising_totals(measured)["excess"].value < 1e-25


def remembered(model: str, n_train: int = 60) -> dict[str, object]:
    """Memory of a model that is exact for the distribution, or for the training sample."""
    subject = gaussian_subject(T=100)
    train, test = subject.fresh(n_train, "train"), subject.fresh(n_train, "test")
    # A little noise around the training points gives them a density.
    by_heart = replace(Truth.of_points(train, subject.truth.schedule), noise=0.005)
    chosen = {"truth": subject.truth, "sample": by_heart}[model]
    found, columns = memory(
        gaussian_subject(chosen.denoiser, T=100),
        train,
        test,
        n=n_train,
        times=[1, 10, 100],
        points=100,
        tolerance=1e-3,
    )
    assert columns["t"] == [1, 10, 100]
    assert set(columns) == {"t", "to_truth", "to_sample", "truth_to_sample"}
    return found


def test_a_model_that_knows_the_distribution_has_learned() -> None:
    found = remembered("truth")
    assert str(found["verdict"]).startswith("learned the distribution (")
    gap = found["gap"]
    assert abs(gap.value) <= 4 * gap.se + 1e-3  # type: ignore[attr-defined]


def test_a_model_that_knows_the_sample_has_memorised() -> None:
    found = remembered("sample")
    assert str(found["verdict"]).startswith("memorised the sample (")
    gap = found["gap"]
    assert gap.value > max(2 * gap.se, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("share", "off", "followed", "said"),
    [
        (Mean(0.1, 0.05), 0.2, [], "learned the distribution (0.10 ± 0.05 of the way from truth"),
        (Mean(0.9, 0.05), 0.9, [1], "memorised the sample (0.90 ± 0.05 of the way from truth to"),
        (Mean(0.5, 0.05), 0.4, [], "between the two ("),
        (Mean(0.1, 0.50), 0.4, [], "between the two ("),
        (Mean(0.1, 0.05), 9.0, [], "far from both: neither learned nor memorised ("),
    ],
)
def test_the_verdict_weighs_where_the_model_stands(
    share: Mean, off: float, followed: list[int], said: str
) -> None:
    assert verdict(share, off, followed).startswith(said)
    assert verdict(share, off, [41, 49]).endswith("; nearer the sample from t = 41 on")


def test_likelihoods_of_training_points_are_in_data_units_and_their_gap_is_paired() -> None:
    found = remembered("truth")
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    for name in ("train", "test"):
        one = found[name]
        assert one.value == pytest.approx(-entropy, abs=4 * one.se)  # type: ignore[attr-defined]
        assert one.se > 0.05  # type: ignore[attr-defined]
    assert found["gap"].se < 1e-3  # type: ignore[attr-defined]


def test_what_the_end_lacks_of_noise_is_in_the_exact_divergence_too() -> None:
    subject = gaussian_subject(T=200, name="first_principles")
    found = likelihood(subject, n=2000, n_exact=2000, tolerance=1e-5)
    mean, std = model_density(subject.truth)
    expected = float(kl_divergence(Normal(MEAN, STD), Normal(mean, std)).sum())
    assert expected > 0.1
    assert found["exact_kl"].value == pytest.approx(expected, abs=4 * found["exact_kl"].se)


def test_half_the_tolerance_is_what_the_solvers_error_is_measured_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def watched(denoiser: Denoiser, x: torch.Tensor, t: float, *, tolerance: float) -> torch.Tensor:
        asked.append((denoiser is subject.denoiser, len(x), tolerance))
        return torch.zeros(len(x)).double()

    subject = gaussian_subject(shifted(gaussian_subject(T=60).denoiser, "v", 0.1), T=60)
    monkeypatch.setattr(measurement, "log_likelihood", watched)
    likelihood(subject, n=9, n_exact=4, tolerance=1e-3)
    assert sorted(asked) == [(False, 4, 5e-4), (False, 4, 1e-3), (True, 4, 5e-4), (True, 9, 1e-3)]


def test_fields_are_those_of_model_and_truth() -> None:
    subject = gaussian_subject(T=100)
    model = shifted(subject.denoiser, "eps", 0.1)
    fields = score_fields(gaussian_subject(model, T=100), [1.5, 60.0], reach=2.0, grid=5)
    assert fields["score_at"].shape == (25, 2)
    torch.testing.assert_close(
        fields["score_truth"] - fields["score_model"],
        torch.full((2, 25, 2), 0.1).double(),
        rtol=0,
        atol=1e-8,
    )
    sigma = subject.truth.schedule.levels(60.0)[1]
    expected = sigma * subject.truth.score(fields["score_at"], 60.0)
    torch.testing.assert_close(fields["score_truth"][1], expected)


def test_densities_are_in_data_units_with_y_down_the_rows() -> None:
    subject = gaussian_subject(T=200)
    found = density_fields(subject, reach=3.0, grid=61, tolerance=1e-5)
    for name in ("density_truth", "density_model"):
        density = found[name].exp()
        assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=1e-3)
    # The mean is at (0, 0) in data units, with one standard deviation of 0.6.
    torch.testing.assert_close(found["density_truth"], found["density_truth"].T)
    torch.testing.assert_close(found["density_model"], found["density_truth"], rtol=0, atol=0.05)


def test_fresh_points_are_new_for_each_name_and_noised_only_after_0() -> None:
    subject = gaussian_subject(T=100)
    a, b = subject.fresh(5, "a"), subject.fresh(5, "b")
    assert torch.equal(a, subject.fresh(5, "a"))
    assert not torch.equal(a, b)
    assert torch.equal(subject.noised(a, 0, "a"), a)
    assert not torch.equal(subject.noised(a, 1, "a"), a)
    x = torch.randn(3, 4, 2, generator=stream(0, "x"))
    best = subject.best_along([100, 30, 0], x)
    torch.testing.assert_close(best[2], x[2])
    expected = subject.truth.posterior_mean(SCALING.to_model(x[1].double()), 30)
    torch.testing.assert_close(best[1], SCALING.to_data(expected).float())
