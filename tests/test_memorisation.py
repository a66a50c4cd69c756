import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import NOISE, gaussian_distribution, gaussian_model, shifted
from spiral_cases import assert_calibrated

from ddpm.core.compute import stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean
from ddpm.studies.memorisation import (
    Comparison,
    decades,
    denoiser_distances,
    measure_memorisation,
    verdict,
)


def memorisation_of(best_for: str, n: int = 60) -> dict[str, Any]:
    """Measure a model that is exact for the distribution or for the training sample."""
    model = gaussian_model(T=100)
    train, test = model.fresh(60, "train"), model.fresh(60, "test")
    # A little noise around the training points gives them a density.
    sample = replace(ExactDistribution.from_points(train, model.schedule), noise=0.005)
    denoiser = {"truth": model.exact, "sample": sample}[best_for].denoiser
    measured, columns = measure_memorisation(
        gaussian_model(denoiser, T=100),
        train,
        test,
        n=n,
        times=[1, 10, 100],
        points=100,
        tolerance=1e-3,
    )
    assert columns["t"] == [1, 10, 100]
    distances = ["to_truth", "to_sample", "truth_to_sample"]
    assert list(columns) == ["t", *distances, "share", "share_se"]
    return measured


def ranges(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: values for name, values in measured.items() if name.startswith("t_")}


def test_a_model_of_the_distribution_has_learned() -> None:
    measured = memorisation_of("truth")
    assert list(ranges(measured)) == ["t_1_to_9", "t_10_to_100"]
    for values in ranges(measured).values():
        assert values["verdict"] == "learned the distribution"
        assert abs(values["share"].value) < 1e-6
    assert abs(measured["gap"].value) <= 4 * measured["gap"].se + 1e-3


def test_a_model_of_the_sample_has_memorised() -> None:
    measured = memorisation_of("sample")
    for values in ranges(measured).values():
        assert values["verdict"] == "memorised the sample"
    assert measured["gap"].value > max(2 * measured["gap"].se, 10)


def test_sets_smaller_than_the_number_of_points_are_used_as_a_whole() -> None:
    assert memorisation_of("truth", n=1000) == memorisation_of("truth", n=60)


def test_the_share_is_the_position_between_the_two_optima_at_each_time() -> None:
    # At each time the model is somewhere else on the way from the truth to the sample, and off the
    # way by an error that is perpendicular to it: neither the bound's weights nor another time may
    # enter a share.
    exact = gaussian_distribution(shipped_schedule("linear", 100))
    train = exact.sample(60, 0, generator=stream(0, "train"))
    sample = ExactDistribution.from_points(train, exact.schedule).denoiser
    positions = {1: 0.0, 2: 0.25, 9: 0.5, 10: 0.5, 50: 1.0, 100: 0.75}

    def between(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        truth = exact.denoiser(x, float(t))[0]
        way = sample(x, float(t))[0] - truth
        return truth + positions[int(t)] * way + 3 * way.flip(1) * torch.tensor([1, -1])

    model = Denoiser(between, PREDICTIONS["x0"], exact.schedule, torch.float64)
    fresh, times = exact.sample(100, 0, generator=stream(0, "fresh")), list(positions)
    distances = denoiser_distances((model, exact.denoiser, sample), fresh, times, seed=0)
    comparison = Comparison(times, *distances.values())
    columns, ranges = comparison.columns(), comparison.by_range()
    assert columns["share"] == pytest.approx(list(positions.values()), abs=1e-9)
    assert columns["share_se"] == pytest.approx([0] * 6, abs=1e-9)
    assert ranges["t_1_to_9"]["share"].value == pytest.approx(0.25)
    assert ranges["t_10_to_100"]["share"].value == pytest.approx(0.75)
    assert ranges["t_10_to_100"]["verdict"].startswith("far from both")


def test_the_standard_error_of_a_share_is_calibrated() -> None:
    # Three denoisers that differ by noise of their own at each point, and an error at all times.
    def draw(n: int, k: int) -> Comparison:
        way, model = torch.randn(2, 4, n, 2, generator=stream(k, "way"), dtype=torch.float64)
        common = torch.randn(n, 2, generator=stream(k, "common"), dtype=torch.float64)
        model = 0.4 * way + 0.5 * model + 0.3 * way.abs() * common
        distances = [x.square().mean(2) for x in (model, model - way, way)]
        return Comparison([1, 2, 3, 4], *distances)

    exact = draw(300_000, 10**6)
    repetitions = [draw(100, k) for k in range(200)]
    columns, expected = [one.columns() for one in repetitions], exact.columns()["share"][0]
    assert_calibrated(
        torch.tensor([column["share"][0] - expected for column in columns]).double(),
        torch.tensor([column["share_se"][0] for column in columns]).double(),
    )
    shares = [one.by_range()["t_1_to_4"]["share"] for one in repetitions]
    expected = exact.by_range()["t_1_to_4"]["share"].value
    assert_calibrated(
        torch.tensor([share.value - expected for share in shares]).double(),
        torch.tensor([share.se for share in shares]).double(),
    )


@pytest.mark.parametrize(
    ("T", "expected"),
    [
        (1, [(1, 1)]),
        (10, [(1, 10)]),
        (30, [(1, 9), (10, 30)]),
        (1000, [(1, 9), (10, 99), (100, 1000)]),
        (1001, [(1, 9), (10, 99), (100, 999), (1000, 1001)]),
    ],
)
def test_ranges_of_t_are_decades(T: int, expected: list[tuple[int, int]]) -> None:
    assert [(first, last) for _, first, last in decades(T)] == expected


def test_likelihoods_are_in_data_units_and_their_gap_is_paired() -> None:
    measured = memorisation_of("truth")
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    for name in ("train", "test"):
        log_likelihood = measured[name]
        assert log_likelihood.value == pytest.approx(-entropy, abs=4 * log_likelihood.se)
        assert log_likelihood.se > 0.05
    assert measured["gap"].se < 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_distances_between_denoisers_are_those_of_their_x0_hat(prediction: str) -> None:
    exact = gaussian_distribution(shipped_schedule("linear", 60))
    x0 = exact.sample(700, 0, generator=stream(0, "clean"))
    times, shifts = [1, 20, 60], [0.1, 0.0, 0.3]
    denoisers = [shifted(exact.denoiser, prediction, shift) for shift in shifts]
    distances = denoiser_distances(denoisers, x0, times, seed=0)
    assert list(distances) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), squared in distances.items():
        assert squared.shape == (3, len(x0))
        for t, values in zip(times, squared, strict=True):
            a, sigma = exact.schedule.levels(t)
            # How far x0_hat moves when the prediction moves by 1.
            factor = {"x0": 1, "eps": sigma / a, "v": sigma}[prediction]
            expected = ((shifts[i] - shifts[j]) * factor) ** 2
            assert values.tolist() == pytest.approx([expected] * len(x0))


@pytest.mark.parametrize(
    ("share", "ratios", "words"),
    [
        (Mean(0.1, 0.05), (0.2, 1.1), "learned the distribution"),
        (Mean(0.9, 0.05), (1.1, 0.2), "memorised the sample"),
        (Mean(0.5, 0.05), (0.4, 0.4), "between the two"),
        (Mean(0.1, 0.50), (0.4, 0.9), "between the two"),
        (Mean(0.1, 0.05), (9.0, 9.8), "far from both"),
    ],
)
def test_the_verdict_weighs_the_share_by_its_error(
    share: Mean, ratios: tuple[float, float], words: str
) -> None:
    assert verdict(share, *ratios).startswith(words)
