import itertools

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_subject

from ddpm.datasets import SPIRAL, Scaling
from ddpm.flow import flow_samples
from ddpm.multistep import UniPC
from ddpm.optimise import optimise, optimised_spacings, solve_linear
from ddpm.reverse import reverse
from ddpm.runtime import stream
from ddpm.samplers import DDIM
from ddpm.spacings import OPTIMISED, moments
from ddpm.truth import Truth


def test_optimised_times_bring_the_sampler_nearer_to_points_it_has_not_seen() -> None:
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    schedule = shipped_schedule("linear", 1000)
    denoiser = Truth.of_curves([(1.0, SPIRAL)], 0.02, scaling, schedule).denoiser
    seen, unseen = torch.randn(2, 200, 2, dtype=torch.float64, generator=stream(0, "x_T"))
    start = moments("log_snr", schedule, 5)
    arrived, there = (flow_samples(denoiser, x, noise=0.02, tolerance=1e-4) for x in (seen, unseen))
    found = optimise(UniPC(), denoiser, start, seen, arrived)
    assert found[0] == 1000
    assert len(found) == 5
    assert all(t > s for t, s in itertools.pairwise((*found, 0)))

    def off(times: list[float]) -> float:
        x = reverse(UniPC(), denoiser, unseen, times, generator=torch.Generator()).x
        return float((x - there).square().sum(1).sqrt().median())

    assert off(found) < 0.4 * off(start)
    # Where it has arrived it stays: nothing near is much better.
    again = optimise(UniPC(), denoiser, found, seen, arrived)
    assert off(again) == pytest.approx(off(found), rel=0.3)


def test_both_spacings_are_made_for_every_number_of_steps() -> None:
    subject = gaussian_subject(T=100)
    found = optimised_spacings(subject, DDIM(eta=0), [1, 2, 4], n=30, tolerance=1e-4)
    assert list(found) == list(OPTIMISED)
    for by_steps in found.values():
        assert {steps: len(times) for steps, times in by_steps.items()} == {"1": 1, "2": 2, "4": 4}
        assert all(times[0] == 100 for times in by_steps.values())
    # The model is the truth here.
    assert found[OPTIMISED[0]] == found[OPTIMISED[1]]


def test_a_small_system_is_solved() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=stream(0, "matrix"))
    matrix[0, 0] = 0
    right = torch.randn(6, dtype=torch.float64, generator=stream(0, "right"))
    expected = torch.linalg.solve(matrix, right).tolist()
    assert solve_linear(matrix.tolist(), right.tolist()) == pytest.approx(expected)
    with pytest.raises(ZeroDivisionError):
        solve_linear([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0])
