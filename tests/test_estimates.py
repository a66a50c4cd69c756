from collections.abc import Callable

import pytest
import torch
from spiral_cases import assert_calibrated

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.reference.estimates import (
    Distance,
    estimate_distances,
    mean_of,
    null_distances,
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


def distance(value: float, linear_se: float = 0.0) -> Distance:
    """A distance with this standard error, all of it from the first of the two sets."""
    influence = torch.tensor([linear_se, -linear_se]).double()
    return Distance(value, influence, torch.zeros(2).double())


def test_the_standard_error_is_that_of_the_null_until_the_distance_stands_out() -> None:
    null = [distance(value, 9.0) for value in (1.0, 2.0, 3.0)]
    assert with_floor(distance(5.0, 7.0), null) == (5.0, 1.0, 2.0)
    assert with_floor(distance(5.1, 7.0), null) == (5.1, pytest.approx(7.0), 2.0)
    assert with_floor(distance(5.1, 0.1), null) == (5.1, 1.0, 2.0)


def test_every_set_is_measured_against_the_truth_and_each_pair_within_itself() -> None:
    def distance_to(truth: torch.Tensor) -> Callable[[torch.Tensor], Distance]:
        return lambda points: distance(float((points - truth).abs().sum()), 0.1)

    zeros, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    pairs = [(ones, zeros), (3 * ones, zeros), (7 * ones, 2 * ones)]
    assert [pair.value for pair in null_distances(distance_to, pairs)] == [2, 6, 10]
    samples = {"near": 2 * ones, "far": 100 * ones}
    estimates = estimate_distances(distance_to, samples, zeros, pairs)
    assert estimates == {"near": (4.0, 4.0, 6.0), "far": (200.0, 4.0, 6.0)}
