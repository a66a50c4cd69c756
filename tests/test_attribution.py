import math

import pytest
import torch
from exact_cases import gaussian_subject, gaussian_truth, shifted

from ddpm.attribution import (
    BOTH,
    NEITHER,
    NETWORK_ALONE,
    SAMPLER_ALONE,
    arms,
    attribute,
    said,
)
from ddpm.metrics import Mean
from ddpm.reverse import Sampler
from ddpm.samplers import DDIM, DDPM
from ddpm.spacings import moments
from ddpm.subject import LogDensity, Subject


def attributed(subject: Subject, sampler: Sampler, steps: int) -> dict[str, dict[str, object]]:
    times = moments("trailing", subject.truth.schedule, steps)
    found = arms(subject, sampler, times, n=600, block=300, tolerance=1e-4)
    assert all(points.shape == (600, 2) for points in found.values())
    return attribute(subject, found, null_pairs=20)


def test_with_an_exact_network_and_a_fine_sampler_neither_stands_out() -> None:
    found = attributed(gaussian_subject(T=200), DDPM(variance="posterior"), 200)
    assert str(found["verdict"]).count("neither stands out") == 2
    for arm in (SAMPLER_ALONE, NETWORK_ALONE, BOTH):
        density, truth = found[arm]["log_density"], found["truth"]["log_density"]
        assert abs(density.value - truth.value) < 4 * density.se  # type: ignore[attr-defined]


def test_a_coarse_sampler_is_found_out() -> None:
    # Two steps make of Gaussian data too narrow a Gaussian.
    found = attributed(gaussian_subject(T=200), DDIM(eta=0), 2)
    assert str(found["verdict"]).count("the sampler dominates") == 2


def test_a_wrong_network_is_found_out() -> None:
    exact = gaussian_subject(T=200)
    found = attributed(gaussian_subject(shifted(exact.denoiser, "v", 0.5), T=200), DDIM(eta=0), 100)
    assert str(found["verdict"]).count("the network dominates") == 2


def test_without_noise_densities_are_compared_at_1() -> None:
    found = attributed(gaussian_subject(T=200, noise=0.0), DDIM(eta=0), 10)
    assert found["t"] == 1
    assert found["truth"]["log_density"].value > 0  # type: ignore[attr-defined]


def test_samples_are_in_data_units() -> None:
    subject = gaussian_subject(T=200)
    found = arms(
        subject,
        DDIM(eta=0),
        moments("trailing", subject.truth.schedule, 50),
        n=500,
        block=500,
        tolerance=1e-3,
    )
    for points in found.values():
        assert points.mean(0).tolist() == pytest.approx([0, 0], abs=0.15)
        assert points.std(0).tolist() == pytest.approx([0.6, 0.6], abs=0.08)
    both = arms(
        subject,
        DDIM(eta=0),
        moments("trailing", subject.truth.schedule, 50),
        n=500,
        block=500,
        tolerance=1e-3,
    )
    assert all(torch.equal(found[name], both[name]) for name in found)
    # The exact denoiser in the network's place, with the same noise: the same samples.
    assert torch.equal(found[SAMPLER_ALONE], found[BOTH])
    assert gaussian_truth(subject.truth.schedule).noise == subject.truth.noise


def test_the_truths_own_density_is_its_entropy_and_floors_are_taken_off() -> None:
    subject = gaussian_subject(T=200)
    found = attributed(subject, DDIM(eta=0), 50)
    truth = found["truth"]["log_density"]
    entropy = math.log(2 * math.pi * math.e * 0.6**2)
    assert truth.value == pytest.approx(-entropy, abs=4 * truth.se)  # type: ignore[attr-defined]
    assert truth.se < 0.01  # type: ignore[attr-defined]
    energy = found[SAMPLER_ALONE]["energy_distance"]
    gap = energy.value - energy.floor  # type: ignore[attr-defined]
    assert f"by energy distance neither stands out (sampler alone {gap:+.2g} ±" in found["verdict"]


def test_a_prediction_that_is_not_regular_changes_nothing_in_the_density_of_samples() -> None:
    exact = gaussian_subject(T=200)
    subject = gaussian_subject(shifted(exact.denoiser, "x0", 0.0), T=200)
    assert subject.t == 1
    assert attributed(subject, DDIM(eta=0), 50)["t"] == 0


def test_a_stray_counts_no_less_than_the_least_likely_true_point() -> None:
    subject = gaussian_subject(T=200)
    true = subject.scaling.to_data(subject.fresh(1000, "true"))
    judged = LogDensity(subject, true)
    far = torch.cat([true[:99], torch.full((1, 2), 1e3).double()])
    found = judged(far, "far")
    assert found.strays == 0.01
    assert found.mean.value > judged.truth.value - 1
    assert judged(true, "true") == (judged.truth, 0.0)


@pytest.mark.parametrize(
    ("sampler", "network", "word"),
    [
        (Mean(0.1, 0.1), Mean(-0.1, 0.1), "neither stands out"),
        (Mean(1.0, 0.1), Mean(0.1, 0.1), "the sampler dominates"),
        (Mean(0.1, 0.1), Mean(-1.0, 0.1), "the network dominates"),
        (Mean(1.0, 0.1), Mean(-1.1, 0.1), "both weigh alike"),
        (Mean(1.0, 0.1), Mean(-2.1, 0.1), "the network dominates"),
        # One stands out, and the other is too rough to be told from it.
        (Mean(0.06, 0.01), Mean(-16, 20), "the sampler dominates"),
    ],
)
def test_the_verdict_weighs_gaps_by_their_errors(sampler: Mean, network: Mean, word: str) -> None:
    sentence = said(
        {SAMPLER_ALONE: sampler, NETWORK_ALONE: network, BOTH: Mean(0, 1), NEITHER: Mean(0, 1)}
    )
    assert sentence.startswith(f"{word} (sampler alone {sampler.value:+.2g} ± ")


def test_a_schedule_that_does_not_end_in_noise_is_found_out() -> None:
    subject = gaussian_subject(T=200, name="first_principles")
    found = attributed(subject, DDIM(eta=0), 200)
    assert str(found["verdict"]).count(", and so does the schedule (") == 2
