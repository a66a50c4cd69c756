import itertools

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_model

from ddpm.core.compute import stream
from ddpm.data.datasets import Spiral
from ddpm.data.scaling import Scaling
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.distribution import ExactDistribution
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.multistep import UniPC
from ddpm.sampling.one_step import DDIM
from ddpm.sampling.spacings import OPTIMISED, sampling_times
from ddpm.studies.optimised_spacings import optimise, optimised_spacings, solve_linear


def test_optimised_times_reduce_the_error_on_unseen_points() -> None:
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    schedule = shipped_schedule("linear", 1000)
    exact = ExactDistribution.from_dataset(Spiral(noise=0.02), scaling, schedule)
    x_T, unseen_x_T = torch.randn(2, 200, 2, dtype=torch.float64, generator=stream(0, "x_T"))
    targets, unseen_targets = (
        flow_samples(exact.denoiser, x, noise=0.02, tolerance=1e-4) for x in (x_T, unseen_x_T)
    )
    start = sampling_times("log_snr", schedule, 5)
    optimised = optimise(UniPC(), exact.denoiser, start, x_T, targets)
    assert optimised[0] == 1000
    assert len(optimised) == 5
    assert all(t > s for t, s in itertools.pairwise((*optimised, 0)))

    def median_error(times: list[float]) -> float:
        generator = torch.Generator()
        x = run_sampler(UniPC(), exact.denoiser, unseen_x_T, times, generator=generator).x
        return float((x - unseen_targets).square().sum(1).sqrt().median())

    assert median_error(optimised) < 0.4 * median_error(start)
    # The search has converged: started from its own result, it gains little.
    again = optimise(UniPC(), exact.denoiser, optimised, x_T, targets)
    assert median_error(again) == pytest.approx(median_error(optimised), rel=0.3)


def test_both_spacings_are_optimised_for_every_number_of_steps() -> None:
    model = gaussian_model(T=100)
    spacings = optimised_spacings(model, DDIM(eta=0), [1, 2, 4], n=30, tolerance=1e-4)
    assert list(spacings) == list(OPTIMISED)
    for by_steps in spacings.values():
        lengths = {steps: len(times) for steps, times in by_steps.items()}
        assert lengths == {"1": 1, "2": 2, "4": 4}
        assert all(times[0] == 100 for times in by_steps.values())
    # The model is the exact denoiser here.
    assert spacings["optimised_truth"] == spacings["optimised_model"]


def test_a_small_linear_system_is_solved_as_torch_solves_it() -> None:
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=stream(0, "matrix"))
    # Without pivoting this would divide by zero.
    matrix[0, 0] = 0
    right = torch.randn(6, dtype=torch.float64, generator=stream(0, "right"))
    expected = torch.linalg.solve(matrix, right).tolist()
    assert solve_linear(matrix.tolist(), right.tolist()) == pytest.approx(expected)


def test_a_singular_linear_system_is_refused() -> None:
    with pytest.raises(ZeroDivisionError):
        solve_linear([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0])
