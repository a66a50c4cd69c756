from collections.abc import Callable

import torch
from spiral_cases import assert_calibrated

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.reference.estimates import (
    Distance,
    estimate_distances,
    mean_of,
    null_distances,
    ratio_of,
    with_floor,
)

REPETITIONS = 200


def x_coordinates(n: int, name: str) -> torch.Tensor:
    return SPIRAL.sample(n, 0.02, generator=stream(0, name))[:, 0]


def test_the_standard_error_of_a_mean_is_calibrated() -> None:
    # Skewed values, as log densities are.
    means = [mean_of(x_coordinates(60, f"m{k}").exp()) for k in range(REPETITIONS)]
    exact = float(x_coordinates(1_000_000, "exact").exp().mean())
    errors = torch.tensor([mean.value - exact for mean in means]).double()
    assert_calibrated(errors, torch.tensor([mean.se for mean in means]).double())


def test_the_standard_error_of_a_ratio_of_paired_values_is_calibrated() -> None:
    def paired(n: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        x = x_coordinates(n, name)
        return x.exp(), x + 2

    ratios = [ratio_of(*paired(60, f"m{k}")) for k in range(REPETITIONS)]
    numerator, denominator = paired(1_000_000, "exact")
    exact = float(numerator.mean() / denominator.mean())
    errors = torch.tensor([ratio.value - exact for ratio in ratios]).double()
    assert_calibrated(errors, torch.tensor([ratio.se for ratio in ratios]).double())


def test_the_standard_error_is_that_of_the_null_until_the_distance_stands_out() -> None:
    null = [Distance(value, 9.0) for value in (1.0, 2.0, 3.0)]
    assert with_floor(Distance(5.0, 7.0), null) == (5.0, 1.0, 2.0)
    assert with_floor(Distance(5.1, 7.0), null) == (5.1, 7.0, 2.0)
    assert with_floor(Distance(5.1, 0.1), null) == (5.1, 1.0, 2.0)


def test_every_set_is_measured_against_the_truth_and_each_pair_within_itself() -> None:
    def distance_to(truth: torch.Tensor) -> Callable[[torch.Tensor], Distance]:
        return lambda points: Distance(float((points - truth).abs().sum()), 0.1)

    zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    pairs = [(ones, zeros), (3 * ones, zeros), (7 * ones, 2 * ones)]
    assert [distance.value for distance in null_distances(distance_to, pairs)] == [2, 6, 10]
    samples = {"near": 2 * ones, "far": 100 * ones}
    estimates = estimate_distances(distance_to, samples, zeros, pairs)
    assert estimates == {"near": (4.0, 4.0, 6.0), "far": (200.0, 4.0, 6.0)}
