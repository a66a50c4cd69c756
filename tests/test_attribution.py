import math
from typing import Any

import pytest
import torch
from exact_cases import NOISE, gaussian_model, shifted

from ddpm.core.params import MeasureSamplesSettings
from ddpm.reference.estimates import Mean
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.one_step import DDIM, DDPM
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import sampling_times
from ddpm.studies.attribution import (
    BOTH,
    NEITHER,
    NETWORK_ALONE,
    SAMPLER_ALONE,
    attribute,
    sample_combinations,
    verdict,
)

SETTINGS = MeasureSamplesSettings(n=300, null_pairs=20, directions=8)


def combinations_of(model: ModelUnderTest, sampler: Sampler, steps: int) -> dict[str, torch.Tensor]:
    times = sampling_times("trailing", model.schedule, steps)
    clean = model.fresh(600, "attribute/clean")
    x = draw_samples(
        sampler, model.denoiser, times, n=600, block=300, seed=model.seed, clean=clean
    ).x
    samples = model.scaling.to_data(x.double())
    return sample_combinations(model, sampler, times, samples, block=300, tolerance=1e-4)


def attribution_of(model: ModelUnderTest, sampler: Sampler, steps: int) -> dict[str, Any]:
    return attribute(model, combinations_of(model, sampler, steps), SETTINGS)


def test_neither_stands_out_with_an_exact_network_and_a_fine_sampler() -> None:
    attribution = attribution_of(gaussian_model(T=200), DDPM(variance="posterior"), 200)
    assert attribution["verdict"].count("neither stands out") == 2
    truth = attribution["truth"]["log_density"]
    for name in (SAMPLER_ALONE, NETWORK_ALONE, BOTH):
        log_density = attribution[name]["log_density"]
        assert abs(log_density.value - truth.value) < 4 * log_density.se


def test_the_sampler_dominates_when_it_is_coarse() -> None:
    # With two steps the samples of Gaussian data are too narrow a Gaussian.
    attribution = attribution_of(gaussian_model(T=200), DDIM(eta=0), 2)
    assert attribution["verdict"].count("the sampler dominates") == 2


def test_the_network_dominates_when_it_is_wrong() -> None:
    exact = gaussian_model(T=200)
    model = gaussian_model(shifted(exact.denoiser, "v", 0.5), T=200)
    attribution = attribution_of(model, DDIM(eta=0), 100)
    assert attribution["verdict"].count("the network dominates") == 2


def test_the_schedule_stands_out_when_it_does_not_end_in_noise() -> None:
    model = gaussian_model(T=200, name="first_principles")
    attribution = attribution_of(model, DDIM(eta=0), 200)
    assert attribution["verdict"].count(", and so does the schedule (") == 2


def test_densities_of_data_without_noise_are_compared_at_1() -> None:
    attribution = attribution_of(gaussian_model(T=200, noise=0.0), DDIM(eta=0), 10)
    assert attribution["t"] == 1
    assert attribution["truth"]["log_density"].value > 0


def test_an_x0_prediction_does_not_move_the_densities_from_0() -> None:
    # The model's own flow has no density at 0, but samples are measured under the truth.
    exact = gaussian_model(T=200)
    model = gaussian_model(shifted(exact.denoiser, "x0", 0.0), T=200)
    assert model.t == 1
    assert attribution_of(model, DDIM(eta=0), 50)["t"] == 0


def test_samples_are_in_data_units_and_start_from_the_same_noise() -> None:
    model = gaussian_model(T=200)
    samples = combinations_of(model, DDIM(eta=0), 50)
    assert set(samples) == {SAMPLER_ALONE, NETWORK_ALONE, BOTH, NEITHER}
    for points in samples.values():
        assert points.shape == (600, 2)
        assert points.mean(0).tolist() == pytest.approx([0, 0], abs=0.15)
        assert points.std(0).tolist() == pytest.approx([NOISE, NOISE], abs=0.08)
    again = combinations_of(model, DDIM(eta=0), 50)
    assert all(torch.equal(samples[name], again[name]) for name in samples)
    # The model is the exact denoiser here, so from the same noise come the same samples.
    assert torch.equal(samples[SAMPLER_ALONE], samples[BOTH])
    assert torch.equal(samples[NETWORK_ALONE], samples[NEITHER])


def test_log_density_of_the_truth_is_its_negative_entropy() -> None:
    attribution = attribution_of(gaussian_model(T=200), DDIM(eta=0), 50)
    truth = attribution["truth"]["log_density"]
    entropy = math.log(2 * math.pi * math.e * NOISE**2)
    assert truth.value == pytest.approx(-entropy, abs=4 * truth.se)
    assert truth.se < 0.01


def test_the_verdict_takes_the_floor_off_the_energy_distance() -> None:
    attribution = attribution_of(gaussian_model(T=200), DDIM(eta=0), 50)
    energy = attribution[SAMPLER_ALONE]["energy_distance"]
    gap = energy.value - energy.floor
    start = f"by energy distance neither stands out (sampler alone {gap:+.2g} ±"
    assert attribution["verdict"].startswith(start)


@pytest.mark.parametrize(
    ("sampler", "network", "word"),
    [
        (Mean(0.1, 0.1), Mean(-0.1, 0.1), "neither stands out"),
        (Mean(1.0, 0.1), Mean(0.1, 0.1), "the sampler dominates"),
        (Mean(0.1, 0.1), Mean(-1.0, 0.1), "the network dominates"),
        (Mean(1.0, 0.1), Mean(-1.1, 0.1), "both weigh alike"),
        (Mean(1.0, 0.1), Mean(-2.1, 0.1), "the network dominates"),
        # Only the sampler stands out; the network's gap is larger, but too uncertain.
        (Mean(0.06, 0.01), Mean(-16, 20), "the sampler dominates"),
    ],
)
def test_the_verdict_weighs_gaps_by_their_errors(sampler: Mean, network: Mean, word: str) -> None:
    line = verdict(
        {SAMPLER_ALONE: sampler, NETWORK_ALONE: network, BOTH: Mean(0, 1), NEITHER: Mean(0, 1)}
    )
    assert line.startswith(f"{word} (sampler alone {sampler.value:+.2g} ± ")
    assert "schedule" not in line
