import math
from collections.abc import Mapping
from functools import partial

import pytest
from exact_cases import gaussian_model

from ddpm.core.params import CompareSamplersSettings, MeasureSamplesSettings
from ddpm.reference.distances import DISTANCES
from ddpm.reference.estimates import with_floor
from ddpm.sampling.sampler import Sampler
from ddpm.studies.sampler_cells import (
    Cell,
)
from ddpm.studies.sampler_comparison import (
    COLUMNS,
    DENSITY_COLUMNS,
    SampleEvaluator,
    compare,
)

T = 60


def settings(exact_up_to: int, reference: str) -> CompareSamplersSettings:
    return CompareSamplersSettings(
        n=300,
        exact_up_to=exact_up_to,
        n_density=100,
        density_up_to=5,
        reference=reference,
        cells={},
    )


def test_every_row_holds_the_cost_and_the_metrics_of_its_cell(
    samplers: Mapping[str, Sampler],
) -> None:
    model = gaussian_model(T=T)
    evaluator = SampleEvaluator(
        model, 300, MeasureSamplesSettings(n=300, null_pairs=5, directions=8)
    )
    cells = [
        Cell("ddim", "trailing", 2),
        Cell("unipc", "optimised_model", 3),
        Cell("heun", "karras", 10),
        Cell("ddpm", "trailing", 40),
    ]
    optimised = {"optimised_model": {"3": [60.0, 20.0, 3.0]}}
    compared = compare(model, samplers, cells, optimised, evaluator, settings(20, "ddpm/trailing"))
    rows = [cell.row() for cell in compared]
    # In this order, in which the table is written.
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [(row["sampler"], row["evaluations"], row["denoiser"]) for row in rows] == [
        ("ddim", 2, "network"),
        ("ddim", 2, "exact"),
        ("unipc", 3, "network"),
        ("unipc", 3, "exact"),
        ("heun", 9, "network"),
        ("heun", 9, "exact"),
        ("ddpm", 40, "network"),
        # The reference includes the exact denoiser at any cost.
        ("ddpm", 40, "exact"),
    ]
    # The model is exact here, and every cell starts from the same noise.
    assert rows[0]["energy_distance"] == rows[1]["energy_distance"]
    # Two steps of DDIM make too narrow a Gaussian, forty of DDPM do not.
    assert rows[0]["energy_distance"] > rows[0]["energy_distance_floor"] + 5 * 0.003
    ddpm = rows[-1]
    excess = ddpm["energy_distance"] - ddpm["energy_distance_floor"]
    assert abs(excess) < 4 * ddpm["energy_distance_se"]
    assert abs(ddpm["log_density"] - ddpm["log_density_truth"]) < 0.6
    # Where the density is known, up to five evaluations, both denoisers have the same.
    assert rows[0]["reverse_kl"] == pytest.approx(rows[1]["reverse_kl"])
    assert rows[0]["reverse_kl"] > rows[2]["reverse_kl"] > 0
    assert all(math.isnan(row[name]) for row in rows[4:] for name in DENSITY_COLUMNS)
    for name in (*DISTANCES, "log_density"):
        for row in rows:
            difference = row[name] - ddpm[name]
            assert row[f"{name}_difference"] == pytest.approx(difference, abs=1e-12)
            assert (row[f"{name}_difference_se"] > 0) == (row["sampler"] != "ddpm")


def test_differences_of_samples_from_the_same_noise_resolve_what_their_values_cannot(
    samplers: Mapping[str, Sampler],
) -> None:
    model = gaussian_model(T=T)
    evaluator = SampleEvaluator(
        model, 300, MeasureSamplesSettings(n=300, null_pairs=5, directions=8)
    )
    cells = [Cell("dpmpp_2m", "trailing", 40), Cell("ode", "trailing", 1)]
    compared = compare(model, samplers, cells, {}, evaluator, settings(1, "ode/trailing"))
    row = compared[0].row()
    # Slightly too narrow: the log density is too large, by far less than its own error shows.
    assert 0 < row["log_density_difference"] < row["log_density_se"] / 5
    assert row["log_density_difference"] > 5 * row["log_density_difference_se"]
    assert row["energy_distance_difference_se"] < row["energy_distance_se"] / 5


@pytest.mark.parametrize("name", DISTANCES)
def test_the_evaluator_computes_each_distance_next_to_its_floor(name: str) -> None:
    model = gaussian_model(T=T)
    distances = MeasureSamplesSettings(n=300, null_pairs=4, directions=8)
    samples = model.scaling.to_data(model.fresh(200, "samples"))
    true_sets = [model.scaling.to_data(model.fresh(200, f"compare/true/{k}")) for k in range(9)]
    distance_to = partial(DISTANCES[name], settings=distances)
    null = [distance_to(true_sets[2 * k + 2])(true_sets[2 * k + 1]) for k in range(4)]
    expected = with_floor(distance_to(true_sets[0])(samples), null)
    evaluator = SampleEvaluator(model, 200, distances)
    metrics = evaluator.metrics(evaluator(samples))
    assert metrics[name] == expected.value
    assert metrics[f"{name}_se"] == expected.se
    assert metrics[f"{name}_floor"] == expected.floor
