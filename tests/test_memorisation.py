import math
from dataclasses import replace
from typing import Any

import pytest
from conftest import shipped_schedule
from exact_cases import NOISE, gaussian_distribution, gaussian_model, shifted

from ddpm.core.compute import stream
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean
from ddpm.studies.memorisation import denoiser_distance, measure_memorisation, verdict


def memorisation_of(best_for: str, n_train: int = 60) -> dict[str, Any]:
    """Measure a model that is exact for the distribution or for the training sample."""
    model = gaussian_model(T=100)
    train, test = model.fresh(n_train, "train"), model.fresh(n_train, "test")
    # A little noise around the training points gives them a density.
    sample = replace(ExactDistribution.from_points(train, model.schedule), noise=0.005)
    denoiser = {"truth": model.exact, "sample": sample}[best_for].denoiser
    measured, columns = measure_memorisation(
        gaussian_model(denoiser, T=100),
        train,
        test,
        n=n_train,
        times=[1, 10, 100],
        points=100,
        tolerance=1e-3,
    )
    assert columns["t"] == [1, 10, 100]
    assert set(columns) == {"t", "to_truth", "to_sample", "truth_to_sample"}
    return measured


def test_a_model_of_the_distribution_has_learned() -> None:
    measured = memorisation_of("truth")
    assert measured["verdict"].startswith("learned the distribution (")
    assert abs(measured["share"].value) < 1e-6
    assert abs(measured["gap"].value) <= 4 * measured["gap"].se + 1e-3


def test_a_model_of_the_sample_has_memorised() -> None:
    measured = memorisation_of("sample")
    assert measured["verdict"].startswith("memorised the sample (")
    assert measured["gap"].value > max(2 * measured["gap"].se, 10)


def test_likelihoods_are_in_data_units_and_their_gap_is_paired() -> None:
    measured = memorisation_of("truth")
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    for name in ("train", "test"):
        log_likelihood = measured[name]
        assert log_likelihood.value == pytest.approx(-entropy, abs=4 * log_likelihood.se)
        assert log_likelihood.se > 0.05
    assert measured["gap"].se < 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_distance_between_denoisers_is_that_of_their_x0_hat(prediction: str) -> None:
    exact = gaussian_distribution(shipped_schedule("linear", 60))
    x0 = exact.sample(700, 0, generator=stream(0, "clean"))
    times = [1, 20, 60]
    squared = denoiser_distance(
        shifted(exact.denoiser, prediction, 0.1), exact.denoiser, x0, times, seed=0
    )
    assert squared.shape == (3, len(x0))
    for t, values in zip(times, squared, strict=True):
        a, sigma = exact.schedule.levels(t)
        # How far x0_hat moves when the prediction moves by 1.
        factor = {"x0": 1, "eps": sigma / a, "v": sigma}[prediction]
        assert values.tolist() == pytest.approx([(0.1 * factor) ** 2] * len(x0))


@pytest.mark.parametrize(
    ("share", "relative", "nearer_sample", "words"),
    [
        (Mean(0.1, 0.05), 0.2, [], "learned the distribution (0.10 ± 0.05 of the way from truth"),
        (Mean(0.9, 0.05), 0.9, [1], "memorised the sample (0.90 ± 0.05 of the way from truth to"),
        (Mean(0.5, 0.05), 0.4, [], "between the two ("),
        (Mean(0.1, 0.50), 0.4, [], "between the two ("),
        (Mean(0.1, 0.05), 9.0, [], "far from both: neither learned nor memorised ("),
    ],
)
def test_the_verdict_weighs_the_share_by_its_error(
    share: Mean, relative: float, nearer_sample: list[int], words: str
) -> None:
    assert verdict(share, relative, nearer_sample).startswith(words)
    assert verdict(share, relative, [41, 49]).endswith("; nearer the sample from t = 41 on")
