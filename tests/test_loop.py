import itertools
import math

import pytest
import torch
from conftest import shipped_schedule
from sampler_cases import (
    EVERY_SAMPLER,
    clean_gaussian,
    end_moments,
    five_point_denoiser,
    gaussian_denoiser,
)
from torch import Tensor

from ddpm.core import compute
from ddpm.diffusion.denoiser import Denoiser
from ddpm.sampling.loop import Trajectories, draw_samples, run_sampler
from ddpm.sampling.one_step import DDIM, DDPM, ODE, Heun
from ddpm.sampling.sampler import ReverseStep, Sampler
from ddpm.sampling.spacings import sampling_times


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_sampler_lands_on_the_point_when_data_is_one_point(
    sampler: Sampler, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 50), mean=1.5, std=1e-9)
    times = sampling_times("trailing", denoiser.schedule, steps)
    clean = torch.full((4, 1), 1.5).double()
    mean, variance = end_moments(sampler, denoiser, times, monkeypatch, clean)
    # The flow is solved to a tolerance.
    tolerance = 1e-3 if isinstance(sampler, ODE) else 1e-9
    assert mean == pytest.approx(1.5, abs=tolerance)
    assert variance == pytest.approx(0, abs=tolerance**2)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_with_a_step_for_every_time_gaussian_data_are_reproduced(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule("linear", 1000)
    denoiser = gaussian_denoiser(schedule, mean=0.7, std=0.5)
    times = [1000.0] if isinstance(sampler, ODE) else sampling_times("trailing", schedule, 1000)
    clean = clean_gaussian(0.7, 0.5)
    mean, variance = end_moments(sampler, denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.7, abs=0.005)
    assert math.sqrt(variance) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    "sampler", [sampler for sampler in EVERY_SAMPLER if not sampler.adaptive], ids=repr
)
def test_the_loop_counts_the_evaluations_of_the_denoiser(sampler: Sampler) -> None:
    schedule = shipped_schedule("linear", 50)
    plain, evaluated_at = gaussian_denoiser(schedule, 0.0, 0.5), []

    def function(x: Tensor, t: Tensor) -> Tensor:
        evaluated_at.append(float(t))
        return plain.function(x, t)

    times = sampling_times("trailing", schedule, 9)
    x_T = torch.zeros(3, 2).double()
    prepared = sampler.prepared(plain, times, x_T, seed=0)
    denoiser = Denoiser(function, plain.prediction, schedule)
    result = run_sampler(prepared, denoiser, x_T, times, generator=torch.Generator())
    expected = 17 if isinstance(sampler, Heun) else 9
    assert result.evaluations == len(evaluated_at) == expected
    assert sampler.steps_within(expected) == 9
    assert sampler.steps_within(expected - 1) == 8
    assert sampler.steps_within(expected + 1) >= 9


@pytest.mark.parametrize(
    "sampler", [sampler for sampler in EVERY_SAMPLER if not sampler.adaptive], ids=repr
)
def test_the_loop_passes_every_earlier_state_that_a_sampler_uses(sampler: Sampler) -> None:
    denoiser = five_point_denoiser(shipped_schedule("linear", 50), "v")
    times = sampling_times("trailing", denoiser.schedule, 5)
    x_T = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prepared = sampler.prepared(denoiser, times, x_T, seed=0)
    looped = run_sampler(prepared, denoiser, x_T, times, generator=torch.Generator()).x
    x, states, generator = x_T, [], torch.Generator()
    for t, s in itertools.pairwise((*times, 0)):
        x, state = prepared.step(ReverseStep(denoiser, x, t, s, states, generator))
        states.append(state)
    assert torch.equal(looped, x)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_only_a_deterministic_sampler_ignores_the_generator(sampler: Sampler) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 50), 0.2, 0.5)
    times = sampling_times("trailing", denoiser.schedule, 5)
    x_T = torch.ones(2, 2).double()
    prepared = sampler.prepared(denoiser, times, x_T, seed=0)
    samples = [
        run_sampler(prepared, denoiser, x_T, times, generator=torch.Generator().manual_seed(seed)).x
        for seed in (0, 1)
    ]
    assert torch.equal(*samples) == sampler.deterministic


def drawn(
    sampler: Sampler, n: int, block: int, points: int = 4, frames: int = 3
) -> tuple[Tensor, Trajectories]:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 30), mean=0.5, std=0.5)
    times = sampling_times("trailing", denoiser.schedule, 10)
    trajectories = Trajectories(times, frames=frames, points=points)
    samples = draw_samples(
        sampler,
        denoiser,
        times,
        n=n,
        block=block,
        seed=0,
        device=torch.device("cpu"),
        clean=torch.zeros(5, 2),
        trajectories=trajectories,
    ).x
    return samples, trajectories


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_the_number_of_cores_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler
) -> None:
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(compute, "_workers", lambda cores=cores: cores)
        samples, trajectories = drawn(sampler, n=23, block=5, points=12)
        results.append((samples, trajectories.x, trajectories.x0_hat))
    first, *others = results
    for other in others:
        assert all(itertools.starmap(torch.equal, zip(first, other, strict=True)))


@pytest.mark.parametrize("block", [4, 5, 100])
def test_trajectories_start_in_noise_and_end_in_the_samples(block: int) -> None:
    sampler = DDPM(variance="posterior")
    samples, trajectories = drawn(sampler, n=13, block=block, points=9, frames=50)
    assert samples.shape == (13, 2)
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0
    assert all(t > s for t, s in itertools.pairwise(trajectories.t))
    assert bool(trajectories.x.isfinite().all())
    assert torch.equal(trajectories.x[-1], samples[:9])
    assert torch.equal(trajectories.x0_hat[-1], samples[:9])


def test_each_block_has_noise_of_its_own() -> None:
    samples, _ = drawn(DDIM(eta=0), n=10, block=5)
    assert not torch.equal(samples[:5], samples[5:])


def test_no_more_frames_are_recorded_than_asked_for() -> None:
    _, trajectories = drawn(DDIM(eta=0), n=3, block=3, points=2, frames=4)
    assert 2 <= len(trajectories.t) <= 4
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0
