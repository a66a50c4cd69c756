import math
import statistics

import pytest
import torch

from ddpm.core.compute import stream
from ddpm.data.datasets import Spiral
from ddpm.reference.curve_metrics import (
    CURVE_METRICS,
    Projections,
    curve_ks,
    curve_rms,
    measure_on_curve,
    project,
)

SPIRAL = Spiral(noise=0.02)


def true_points(n: int, name: str) -> torch.Tensor:
    return SPIRAL.sample(n, generator=stream(0, name))


def ks(*positions: float) -> float:
    values = torch.tensor(positions, dtype=torch.float64)
    return curve_ks(Projections(values, torch.zeros_like(values)))


def test_curve_rms_is_the_root_mean_square_of_the_distances() -> None:
    distances = torch.tensor([0.3, 0.4], dtype=torch.float64)
    assert curve_rms(Projections(distances, distances)) == pytest.approx(math.sqrt(0.125))


def test_curve_ks_is_the_supremum_over_both_sides_of_each_step() -> None:
    assert ks(0.5) == pytest.approx(0.5)
    assert ks(0.0, 0.0) == pytest.approx(1)
    assert ks(1.0) == pytest.approx(1)
    n = 1000
    quantiles = [(k + 0.5) / n for k in range(n)]
    assert ks(*reversed(quantiles)) == pytest.approx(0.5 / n)
    assert ks(*(q / 2 for q in quantiles)) == pytest.approx(0.5, abs=1e-3)


def test_every_metric_is_reported_with_its_mean_and_spread_over_true_sets() -> None:
    samples = true_points(200, "samples")
    true_sets = [true_points(200, f"true/{k}") for k in range(5)]
    first, *others = project(SPIRAL, [samples, *true_sets])
    measured = measure_on_curve(first, others)
    assert set(measured) == set(CURVE_METRICS)
    for name, metric in CURVE_METRICS.items():
        true_values = [metric(Projections(*SPIRAL.project(x))) for x in true_sets]
        assert measured[name] == {
            "value": metric(Projections(*SPIRAL.project(samples))),
            "truth": pytest.approx(statistics.mean(true_values)),
            "truth_sd": pytest.approx(statistics.stdev(true_values)),
        }


@pytest.mark.parametrize("name", CURVE_METRICS)
def test_samples_gathered_beside_one_place_of_the_curve_stand_out_in_every_metric(
    name: str,
) -> None:
    true_sets = [true_points(200, f"true/{k}") for k in range(5)]
    start = torch.tensor([SPIRAL.curve.u_min], dtype=torch.float64)
    gathered = SPIRAL.curve.points(start).expand(200, 2) + 0.1
    others = project(SPIRAL, true_sets)
    metrics = measure_on_curve(*project(SPIRAL, [gathered]), others)[name]
    assert metrics["value"] > metrics["truth"] + 5 * metrics["truth_sd"]
    metrics = measure_on_curve(*project(SPIRAL, [true_points(200, "samples")]), others)[name]
    assert abs(metrics["value"] - metrics["truth"]) < 5 * metrics["truth_sd"]
