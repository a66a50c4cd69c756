import math

import pytest
import torch

from ddpm import runtime
from ddpm.datasets import SPIRAL
from ddpm.metrics import (
    Distance,
    beside_floor,
    energy_distance,
    estimate,
    mean_of,
    sliced_wasserstein,
)
from ddpm.runtime import stream


def cloud(n: int, name: str, shift: float = 0.0) -> torch.Tensor:
    return SPIRAL.sample(n, 0.02, generator=stream(0, name)) + shift


def test_energy_distance_is_its_definition() -> None:
    x, y = cloud(70, "x"), cloud(90, "y", 0.1)

    def mean(a: torch.Tensor, b: torch.Tensor, pairs: int) -> float:
        return sum(math.dist(p, q) for p in a.tolist() for q in b.tolist()) / pairs

    expected = 2 * mean(x, y, 70 * 90) - mean(x, x, 70 * 69) - mean(y, y, 90 * 89)
    assert energy_distance(x, y).value == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_two_points_is_twice_their_distance() -> None:
    x = torch.zeros(2000, 2).double()
    assert energy_distance(x, x + torch.tensor([3.0, 4.0])).value == pytest.approx(10)


def test_energy_distance_takes_any_sizes_in_blocks() -> None:
    # More than one block of rows, and neither a whole number of them.
    x, y = cloud(2100, "x"), cloud(1037, "y")
    far = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").mean()
    within = [
        torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").sum()
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    expected = float(2 * far - within[0] - within[1])
    assert energy_distance(x, y).value == pytest.approx(expected, abs=1e-13)


def test_energy_distance_is_unbiased() -> None:
    values = torch.tensor(
        [energy_distance(cloud(40, f"x{k}"), cloud(40, f"y{k}")).value for k in range(400)]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    assert 0.3 < float((values < 0).double().mean()) < 0.8


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_two() -> None:
    x = cloud(500, "x")
    y = x[torch.randperm(500, generator=stream(0, "order"))] + torch.tensor([0.3, -0.4])
    assert sliced_wasserstein(x, y, 16).value == pytest.approx(0.5 / math.sqrt(2))


def test_sliced_wasserstein_of_a_set_with_itself_is_zero() -> None:
    x = cloud(50, "x")
    assert sliced_wasserstein(x, x.flip(0), 8) == Distance(0.0, 0.0)


def test_sliced_wasserstein_wants_sets_of_one_size() -> None:
    with pytest.raises(ValueError, match="x has 5 points and y has 6"):
        sliced_wasserstein(cloud(5, "x"), cloud(6, "y"), 4)


@pytest.mark.parametrize(
    "distance", [energy_distance, lambda x, y: sliced_wasserstein(x, y, 32)], ids=["ed", "sw"]
)
def test_away_from_the_truth_the_linear_error_is_the_spread(distance) -> None:  # noqa: ANN001
    pairs = [distance(cloud(400, f"x{k}", 0.2), cloud(400, f"y{k}")) for k in range(150)]
    spread = float(torch.tensor([pair.value for pair in pairs]).std())
    claimed = math.sqrt(sum(pair.linear_se**2 for pair in pairs) / len(pairs))
    assert claimed / spread == pytest.approx(1, abs=0.2)


REPETITIONS = 200


@pytest.mark.parametrize(
    "distance", [energy_distance, lambda x, y: sliced_wasserstein(x, y, 32)], ids=["ed", "sw"]
)
def test_the_reported_errors_are_calibrated(distance) -> None:  # noqa: ANN001
    # As the pipeline does it: one true set against another, beside 20 more pairs of true sets.
    estimates = []
    for k in range(REPETITIONS):
        pairs = [(cloud(60, f"a{k}/{j}"), cloud(60, f"b{k}/{j}")) for j in range(20)]
        judged = {"true": cloud(60, f"x{k}")}
        estimates.append(estimate(distance, judged, cloud(60, f"y{k}"), pairs)["true"])
    off = torch.tensor([one.value - one.floor for one in estimates]).double()
    reported = torch.tensor([one.se for one in estimates]).double()
    assert_calibrated(off, reported)


def test_the_error_of_a_mean_is_calibrated() -> None:
    # Mean log-densities and log-ratios: the same estimator for all.
    found = [mean_of(cloud(60, f"m{k}")[:, 0].exp()) for k in range(REPETITIONS)]
    exact = float(cloud(1_000_000, "exact")[:, 0].exp().mean())
    off = torch.tensor([one.value - exact for one in found]).double()
    assert_calibrated(off, torch.tensor([one.se for one in found]).double())


def assert_calibrated(off: torch.Tensor, reported: torch.Tensor) -> None:
    spread = float(off.std() / reported.square().mean().sqrt())
    assert 0.8 <= spread <= 1.25
    assert 0.01 <= float((off.abs() > 2 * reported).double().mean()) <= 0.09
    assert abs(float(off.mean())) < 3 * float(off.std()) / math.sqrt(REPETITIONS)


def test_the_error_is_that_of_the_null_until_the_distance_stands_out() -> None:
    null = [Distance(value, 9.0) for value in (1.0, 2.0, 3.0)]
    assert beside_floor(Distance(5.0, 7.0), null) == (5.0, 1.0, 2.0)
    assert beside_floor(Distance(5.1, 7.0), null) == (5.1, 7.0, 2.0)
    assert beside_floor(Distance(5.1, 0.1), null) == (5.1, 1.0, 2.0)


def test_a_false_set_stands_out() -> None:
    null = [energy_distance(cloud(300, f"a{k}"), cloud(300, f"b{k}")) for k in range(20)]
    estimate = beside_floor(energy_distance(cloud(300, "x", 0.3), cloud(300, "y")), null)
    assert estimate.value - estimate.floor > 4 * estimate.se


@pytest.mark.parametrize(
    "distance", [energy_distance, lambda x, y: sliced_wasserstein(x, y, 40)], ids=["ed", "sw"]
)
def test_the_number_of_cores_changes_no_bit(  # noqa: ANN201
    monkeypatch: pytest.MonkeyPatch,
    distance,  # noqa: ANN001
):
    seen = set()
    for cores in (1, 2, 5):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        seen.add(distance(cloud(3000, "x"), cloud(3000, "y")))
    assert len(seen) == 1
