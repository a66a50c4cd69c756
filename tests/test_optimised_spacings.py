import itertools
from dataclasses import replace
from typing import NoReturn

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_model
from spiral_cases import SCALING

from ddpm.data.datasets import Spiral
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.multistep import UniPC
from ddpm.sampling.one_step import DDIM
from ddpm.sampling.spacings import OPTIMISED, sampling_times
from ddpm.studies import optimised_spacings as module
from ddpm.studies.optimised_spacings import (
    Objective,
    distance_from_flow,
    divergence_from_truth,
    optimise,
    optimised_spacings,
)
from ddpm.studies.reverse_kl import ReverseKL

STEPS = 6


def spiral_model() -> ModelUnderTest:
    dataset = Spiral(noise=0.02)
    exact = ExactDistribution.from_dataset(dataset, SCALING, shipped_schedule("linear", 1000))
    return ModelUnderTest(exact.denoiser, exact, dataset, SCALING, seed=0)


@pytest.mark.parametrize("name", ["divergence", "distance"])
def test_optimised_times_reduce_the_error_on_unseen_points(name: str) -> None:
    model = spiral_model()

    def objective(seed: int) -> Objective:
        seeded, denoiser = replace(model, seed=seed), model.exact.denoiser
        if name == "distance":
            return distance_from_flow(seeded, UniPC(), denoiser, n=300, tolerance=1e-4)
        return divergence_from_truth(seeded, UniPC(), denoiser, n=300)

    best_start = optimise(objective(1), model.schedule, STEPS, iterations=0)
    optimised = optimise(objective(1), model.schedule, STEPS, iterations=10)
    assert optimised[0] == 1000
    assert len(optimised) == STEPS
    assert all(t > s for t, s in itertools.pairwise((*optimised, 0)))
    unseen = objective(2)
    errors = [
        unseen(times).error
        for times in (sampling_times("log_snr", model.schedule, STEPS), best_start, optimised)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.95 * errors[1]


def test_the_divergence_grows_with_the_log_ratio_as_documented() -> None:
    # 0.3 v + 0.7 (exp(-v) - 1 + v), linear below -4, and 8 log(v / 8) above 8.
    model = spiral_model()
    measured = torch.linspace(-6, 20, 2601, dtype=torch.float64)

    def fake(*_: object, **__: object) -> ReverseKL:
        return ReverseKL(measured, torch.zeros(len(measured), dtype=torch.bool))

    errors = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "reverse_kl_from", fake)
        objective = divergence_from_truth(model, UniPC(), model.exact.denoiser, n=2)
        all_points = measured
        for measured in all_points.split(1):  # noqa: B007 - `fake` returns it
            errors.append(objective([1000.0]).error)
    numeric = torch.tensor(errors).double().diff() / all_points.diff()
    middle = (all_points[1:] + all_points[:-1]) / 2
    slopes = (1 - 0.7 * torch.exp(-middle.clamp(-4, 8))) * 8 / middle.clamp(min=8)
    torch.testing.assert_close(numeric, slopes, rtol=1e-3, atol=1e-3)


def test_a_fold_costs_eight_nats() -> None:
    model = spiral_model()
    reversed_at = torch.tensor([False, True, False, True])

    def fake(*_: object, **__: object) -> ReverseKL:
        return ReverseKL(torch.zeros(4, dtype=torch.float64), reversed_at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "reverse_kl_from", fake)
        objective = divergence_from_truth(model, UniPC(), model.exact.denoiser, n=4)
        assert objective([1000.0]).error == pytest.approx(4)


def test_several_descents_end_at_least_as_low_as_one() -> None:
    model = spiral_model()
    objective = divergence_from_truth(model, UniPC(), model.exact.denoiser, n=64)
    errors = [
        objective(optimise(objective, model.schedule, 4, iterations=2, descents=descents)).error
        for descents in (1, 4)
    ]
    assert errors[1] <= errors[0] + 1e-9


def test_both_spacings_are_optimised_for_every_number_of_steps() -> None:
    for noise in (0.6, 0.0):
        model = gaussian_model(T=100, noise=noise)
        spacings = optimised_spacings(
            model, DDIM(eta=0), [1, 2, 4], n=30, tolerance=1e-4, iterations=2
        )
        assert list(spacings) == list(OPTIMISED)
        for by_steps in spacings.values():
            lengths = {steps: len(times) for steps, times in by_steps.items()}
            assert lengths == {"1": 1, "2": 2, "4": 4}
            assert all(times[0] == 100 for times in by_steps.values())
        # The model is the exact denoiser here.
        assert spacings["optimised_truth"] == spacings["optimised_model"]


def test_one_step_has_nothing_to_optimise() -> None:
    def refuse(_: object) -> NoReturn:
        raise AssertionError("evaluated")

    assert optimise(refuse, shipped_schedule("cosine", 1), 1, iterations=3) == [1.0]
