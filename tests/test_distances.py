import math
from collections.abc import Callable

import pytest
import torch
from spiral_cases import assert_calibrated

from ddpm.core import compute
from ddpm.core.compute import stream
from ddpm.core.params import MeasureSamplesSettings
from ddpm.data.datasets import SPIRAL
from ddpm.reference.distances import (
    DISTANCES,
    DistanceTo,
    energy_distance,
    sliced_wasserstein,
)
from ddpm.reference.estimates import Distance, estimate_distances

SETTINGS = MeasureSamplesSettings(n=300, null_pairs=20, directions=32)
REPETITIONS = 60
EVERY_DISTANCE = pytest.mark.parametrize("distance_to", DISTANCES.values(), ids=DISTANCES)


def spiral_points(n: int, name: str, shift: float = 0.0) -> torch.Tensor:
    return SPIRAL.sample(n, 0.02, generator=stream(0, name)) + shift


def numbers(distance: Distance) -> tuple[float, float]:
    return distance.value, distance.linear_se


def with_settings(
    distance_to: DistanceTo,
) -> Callable[[torch.Tensor], Callable[[torch.Tensor], Distance]]:
    return lambda truth: distance_to(truth, SETTINGS)


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0])
def test_energy_distance_is_its_definition(shift: float) -> None:
    # Several groups of directions, and sets of different sizes.
    x, y = spiral_points(700, "x"), spiral_points(900, "y", shift)
    between, within_x, within_y = (
        torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        for a, b in ((x, y), (x, x), (y, y))
    )
    x_to_x, y_to_y = within_x.sum(1) / 699, within_y.sum(1) / 899
    expected = float(2 * between.mean() - x_to_x.mean() - y_to_y.mean())
    distance = energy_distance(x, y)
    assert distance.value == pytest.approx(expected, rel=2e-4, abs=1e-6)
    # The influences are differences of mean distances, which are exact to 2e-4.
    for influence, exact in (
        (distance.x_influence, 2 * (between.mean(1) - x_to_x)),
        (distance.y_influence, 2 * (between.mean(0) - y_to_y)),
    ):
        torch.testing.assert_close(influence, exact, rtol=0, atol=3e-4)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 128])
def test_energy_distance_of_two_points_is_twice_their_distance(angle: float) -> None:
    x = torch.zeros(2000, 2).double()
    y = x + 5 * torch.tensor([math.cos(angle), math.sin(angle)])
    assert energy_distance(x, y).value == pytest.approx(10, rel=2.1e-4)


def test_energy_distance_is_unbiased() -> None:
    values = torch.tensor(
        [
            energy_distance(spiral_points(40, f"x{k}"), spiral_points(40, f"y{k}")).value
            for k in range(400)
        ]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    assert 0.3 < float((values < 0).double().mean()) < 0.8


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_two() -> None:
    x = spiral_points(500, "x")
    y = x[torch.randperm(500, generator=stream(0, "order"))] + torch.tensor([0.3, -0.4])
    assert sliced_wasserstein(x, y, 16).value == pytest.approx(0.5 / math.sqrt(2))


def test_sliced_wasserstein_of_a_set_with_itself_is_zero() -> None:
    x = spiral_points(50, "x")
    assert numbers(sliced_wasserstein(x, x.flip(0), 8)) == (0.0, 0.0)


def test_sliced_wasserstein_refuses_sets_of_different_sizes() -> None:
    with pytest.raises(ValueError, match="x has 5 points and y has 6; pass sets of the same size"):
        sliced_wasserstein(spiral_points(5, "x"), spiral_points(6, "y"), 4)


def test_the_settings_give_the_number_of_directions() -> None:
    x, y = spiral_points(50, "x"), spiral_points(50, "y")
    sliced = DISTANCES["sliced_wasserstein"](y, SETTINGS)(x)
    assert numbers(sliced) == numbers(sliced_wasserstein(x, y, 32))
    energy = DISTANCES["energy_distance"](y, SETTINGS)(x)
    assert numbers(energy) == numbers(energy_distance(x, y))


@EVERY_DISTANCE
def test_a_distance_grows_with_a_shift(distance_to: DistanceTo) -> None:
    distance = distance_to(spiral_points(300, "y"), SETTINGS)
    values = [distance(spiral_points(300, "x", shift)).value for shift in (0.0, 0.1, 0.3, 1.0)]
    assert values == sorted(values)


@EVERY_DISTANCE
def test_away_from_the_truth_the_linear_standard_error_is_that_of_repetitions(
    distance_to: DistanceTo,
) -> None:
    distances = [
        distance_to(spiral_points(400, f"y{k}"), SETTINGS)(spiral_points(400, f"x{k}", 0.2))
        for k in range(200)
    ]
    scatter = float(torch.tensor([distance.value for distance in distances]).std())
    reported = math.sqrt(sum(distance.linear_se**2 for distance in distances) / len(distances))
    # Three standard errors of the scatter, which is 5 % with 200 repetitions.
    assert reported / scatter == pytest.approx(1, abs=0.15)


@EVERY_DISTANCE
@pytest.mark.parametrize(
    ("shift", "least", "most"),
    # Close to the truth the standard error is somewhat too large.
    [(0.2, 0.85, 1.35), (0.0, 0.9, 1.8)],
)
def test_the_standard_error_of_a_paired_difference_is_that_of_repetitions(
    distance_to: DistanceTo, shift: float, least: float, most: float
) -> None:
    differences, unpaired = [], []
    for k in range(80):
        distance = distance_to(spiral_points(150, f"y{k}"), SETTINGS)
        points = spiral_points(150, f"x{k}", shift)
        nearby = points + 0.02 * torch.randn(150, 2, generator=stream(k, "noise"))
        first, second = distance(points), distance(nearby)
        differences.append(first.minus(second))
        unpaired.append(math.hypot(first.linear_se, second.linear_se))
    scatter = float(torch.tensor([difference.value for difference in differences]).std())
    reported = math.sqrt(sum(difference.se**2 for difference in differences) / len(differences))
    assert least < reported / scatter < most
    # The error of the pairs is far smaller than that of independent sets.
    assert reported < 0.3 * math.sqrt(sum(se**2 for se in unpaired) / len(unpaired))


@EVERY_DISTANCE
def test_the_standard_errors_of_true_samples_are_calibrated(distance_to: DistanceTo) -> None:
    # As in the pipeline: one true set against another, with 20 more pairs of true sets.
    estimates = []
    for k in range(REPETITIONS):
        pairs = [
            (spiral_points(60, f"a{k}/{j}"), spiral_points(60, f"b{k}/{j}"))
            for j in range(SETTINGS.null_pairs)
        ]
        samples = {"true": spiral_points(60, f"x{k}")}
        truth = spiral_points(60, f"y{k}")
        estimates.append(
            estimate_distances(with_settings(distance_to), samples, truth, pairs)["true"]
        )
    errors = torch.tensor([estimate.value - estimate.floor for estimate in estimates]).double()
    reported = torch.tensor([estimate.se for estimate in estimates]).double()
    assert_calibrated(errors, reported)


@EVERY_DISTANCE
def test_shifted_samples_are_more_than_four_standard_errors_above_the_floor(
    distance_to: DistanceTo,
) -> None:
    pairs = [(spiral_points(300, f"a{k}"), spiral_points(300, f"b{k}")) for k in range(20)]
    samples = {"shifted": spiral_points(300, "x", 0.3)}
    estimates = estimate_distances(
        with_settings(distance_to), samples, spiral_points(300, "y"), pairs
    )
    estimate = estimates["shifted"]
    assert estimate.value - estimate.floor > 4 * estimate.se


@EVERY_DISTANCE
def test_the_number_of_cores_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, distance_to: DistanceTo
) -> None:
    values = set()
    for cores in (1, 2, 5):
        monkeypatch.setattr(compute, "_workers", lambda cores=cores: cores)
        distance = distance_to(spiral_points(3000, "y"), SETTINGS)(spiral_points(3000, "x"))
        values.add(numbers(distance))
    assert len(values) == 1
