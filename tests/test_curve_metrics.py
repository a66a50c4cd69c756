import math
import statistics

import pytest
import torch

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.reference.curve_metrics import (
    CURVE_METRICS,
    Projections,
    curve_ks,
    curve_rms,
    measure_on_curve,
    project,
)


def true_points(n: int, name: str) -> torch.Tensor:
    return SPIRAL.sample(n, 0.02, generator=stream(0, name))


def test_curve_rms_is_the_root_mean_square_of_the_distances() -> None:
    u = torch.full((2,), SPIRAL.u_min, dtype=torch.float64)
    distances = torch.tensor([0.3, 0.4], dtype=torch.float64)
    assert curve_rms(Projections(SPIRAL, u, distances)) == pytest.approx(math.sqrt(0.125))


def test_curve_ks_compares_the_positions_with_the_uniform_distribution() -> None:
    n = 1000
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    distances = torch.zeros(n, dtype=torch.float64)
    length = SPIRAL.u_max - SPIRAL.u_min
    uniform = Projections(SPIRAL, SPIRAL.u_min + length * quantiles, distances)
    first_half = Projections(SPIRAL, SPIRAL.u_min + length * quantiles / 2, distances)
    assert curve_ks(uniform) == pytest.approx(0.5 / n)
    assert curve_ks(first_half) == pytest.approx(0.5, abs=1e-3)


def test_every_metric_is_reported_with_its_mean_and_spread_over_true_sets() -> None:
    samples = true_points(200, "samples")
    true_sets = [true_points(200, f"true/{k}") for k in range(5)]
    first, *others = project(SPIRAL, [samples, *true_sets])
    measured = measure_on_curve(first, others)
    assert set(measured) == set(CURVE_METRICS)
    for name, metric in CURVE_METRICS.items():
        true_values = [metric(Projections(SPIRAL, *SPIRAL.project(x))) for x in true_sets]
        assert measured[name] == {
            "value": metric(Projections(SPIRAL, *SPIRAL.project(samples))),
            "truth": pytest.approx(statistics.mean(true_values)),
            "truth_sd": pytest.approx(statistics.stdev(true_values)),
        }


@pytest.mark.parametrize("name", CURVE_METRICS)
def test_samples_gathered_beside_one_place_of_the_curve_stand_out_in_every_metric(
    name: str,
) -> None:
    true_sets = [true_points(200, f"true/{k}") for k in range(5)]
    gathered = SPIRAL.points(torch.tensor([SPIRAL.u_min], dtype=torch.float64)).expand(200, 2) + 0.1
    others = project(SPIRAL, true_sets)
    metrics = measure_on_curve(*project(SPIRAL, [gathered]), others)[name]
    assert metrics["value"] > metrics["truth"] + 5 * metrics["truth_sd"]
    metrics = measure_on_curve(*project(SPIRAL, [true_points(200, "samples")]), others)[name]
    assert abs(metrics["value"] - metrics["truth"]) < 5 * metrics["truth_sd"]
