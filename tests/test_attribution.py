import pytest
import torch
from exact_cases import gaussian_subject, gaussian_truth, shifted

from ddpm.attribution import BOTH, NETWORK_ALONE, SAMPLER_ALONE, Gap, arms, attribute, said
from ddpm.reverse import Sampler
from ddpm.samplers import DDIM, DDPM
from ddpm.spacings import moments
from ddpm.subject import Subject


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


@pytest.mark.parametrize(
    ("sampler", "network", "word"),
    [
        (Gap(0.1, 0.1), Gap(-0.1, 0.1), "neither stands out"),
        (Gap(1.0, 0.1), Gap(0.1, 0.1), "the sampler dominates"),
        (Gap(0.1, 0.1), Gap(-1.0, 0.1), "the network dominates"),
        (Gap(1.0, 0.1), Gap(-1.1, 0.1), "both weigh alike"),
    ],
)
def test_the_verdict_weighs_gaps_by_their_errors(sampler: Gap, network: Gap, word: str) -> None:
    sentence = said({SAMPLER_ALONE: sampler, NETWORK_ALONE: network, BOTH: Gap(0, 1)})
    assert sentence.startswith(f"{word} (sampler alone {sampler.value:+.2g} ± 0.1, network alone ")
