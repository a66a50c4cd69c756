import itertools
import math

import numpy as np
import pytest
import torch
from conftest import shipped_schedule
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddpm import runtime
from ddpm.errors import UserError
from ddpm.params import Params
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.samplers import (
    DDIM,
    DDPM,
    SAMPLERS,
    SPACINGS,
    Sampler,
    Trajectories,
    draw_samples,
    moments,
    reverse,
    sampler_of,
)
from ddpm.schedules import Schedule

EVERY_SAMPLER = [
    DDPM(variance="posterior"),
    DDPM(variance="beta"),
    DDIM(eta=0),
    DDIM(eta=0.5),
    DDIM(eta=1),
]


def gaussian_denoiser(schedule: Schedule, mean: float, std: float) -> Denoiser:
    """The exact denoiser of data N(mean, std^2 I): the mean of x_0 given x_t."""

    def x0_hat(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar[int(t)]
        gain = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        return mean + gain * (x_t - alpha_bar.sqrt() * mean)

    return Denoiser(x0_hat, PREDICTIONS["x0"], schedule)


def end_of(sampler: Sampler, denoiser: Denoiser, times: list[int]) -> tuple[float, float]:
    """Mean and variance of x_0 from x_T ~ N(0, 1), exactly: each step is affine, x_s = g x + c + e.

    The same random numbers go into the step from 0, from 1 and from 0 with other noise.
    """
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise((*times, 0)):
        x = torch.tensor([[0.0, 1.0]]).double()
        draws = []
        for seed in (0, 1):
            step = sampler.step(denoiser, x, t, s, generator=torch.Generator().manual_seed(seed))
            draws.append(step[0][0])
        noise = [
            torch.randn(1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[0]
            for seed in (0, 1)
        ]
        spread = float((draws[1][0] - draws[0][0]) / (noise[1][0] - noise[0][0]))
        offset = float(draws[0][0] - spread * noise[0][0])
        gain = float(draws[0][1] - spread * noise[0][1]) - offset
        mean, variance = gain * mean + offset, gain**2 * variance + spread**2
    return mean, variance


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_sampler_lands_on_the_point_when_data_is_one_point(sampler: Sampler, steps: int) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 50), mean=1.5, std=0.0)
    mean, variance = end_of(sampler, denoiser, moments("trailing", 50, steps))
    assert mean == pytest.approx(1.5, abs=1e-9)
    assert variance == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sampler", [DDPM(variance="posterior"), *EVERY_SAMPLER[2:]], ids=repr)
def test_on_the_way_to_one_point_the_spread_is_that_of_the_process(sampler: Sampler) -> None:
    # For known x_0 the posterior is exact: x_s has variance sigma_s^2 at every s.
    schedule = shipped_schedule("cosine", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=0.0)
    x_t = float(schedule.sigma[40]) * torch.ones(1, 2).double()
    for s in (39, 20, 5):
        q, _ = sampler.step(denoiser, 0 * x_t, 40, s, generator=torch.Generator().manual_seed(0))
        p, _ = sampler.step(denoiser, x_t, 40, s, generator=torch.Generator().manual_seed(0))
        e = torch.randn(1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        variance = float((p - q)[0, 0] ** 2 + (q / e)[0, 0] ** 2)
        assert variance == pytest.approx(float(schedule.sigma[s] ** 2))


@pytest.mark.parametrize("steps", [50, 10])
def test_with_the_variance_beta_standard_normal_data_stay_so_exactly(steps: int) -> None:
    # The last step, without noise, is the denoiser's shrinking.
    schedule = shipped_schedule("linear", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=1.0)
    times = moments("trailing", 50, steps)
    _, variance = end_of(DDPM(variance="beta"), denoiser, times)
    assert variance == pytest.approx(float(schedule.alpha_bar[times[-1]]), rel=1e-9)


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_with_every_step_gaussian_data_come_out(sampler: Sampler) -> None:
    schedule = shipped_schedule("linear", 1000)
    mean, variance = end_of(
        sampler, gaussian_denoiser(schedule, mean=0.7, std=0.5), moments("trailing", 1000, 1000)
    )
    assert mean == pytest.approx(0.7, abs=0.005)
    assert math.sqrt(variance) == pytest.approx(0.5, rel=0.01)


def test_the_error_of_ddim_halves_when_its_steps_double() -> None:
    schedule = shipped_schedule("cosine", 4096)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=0.5)
    counts = [64, 128, 256, 512]
    errors = [
        abs(math.sqrt(end_of(DDIM(eta=0), denoiser, moments("trailing", 4096, n))[1]) - 0.5)
        for n in counts
    ]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert 0.9 < slope < 1.1


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 20, 60])
def test_ddim_with_eta_1_is_ddpm_on_the_same_noise(spacing: str, steps: int) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 60), mean=0.3, std=0.6)
    times = moments(spacing, 60, steps)
    x_T = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    ends = [
        reverse(sampler, denoiser, x_T, times, generator=torch.Generator().manual_seed(2))
        for sampler in (DDIM(eta=1), DDPM(variance="posterior"))
    ]
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize(
    ("ours", "theirs"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        (DDPM(variance="posterior"), DDPMScheduler, {"variance_type": "fixed_small"}),
        (DDPM(variance="beta"), DDPMScheduler, {"variance_type": "fixed_large"}),
        (DDIM(eta=0.0), DDIMScheduler, {}),
        (DDIM(eta=0.7), DDIMScheduler, {}),
    ],
    ids=repr,
)
def test_every_step_equals_that_of_diffusers(
    sampler: Sampler, kind: type, options: dict[str, str], name: str, ours: str, theirs: str
) -> None:
    # Their index is our t - 1, and -1 is our t = 0. Their tables are float32: they get ours.
    T, steps = 100, 20
    schedule = shipped_schedule(name, T)
    scheduler = kind(T, prediction_type=theirs, clip_sample=False, **options)
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0).double()
    scheduler.set_timesteps(steps)
    times = list(range(T, 0, -T // steps))
    scheduler.timesteps = torch.tensor(times) - 1

    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    for t, s in itertools.pairwise((*times, 0)):
        said = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        denoiser = Denoiser(lambda x, t, said=said: said, PREDICTIONS[ours], schedule)
        eta = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}
        expected = scheduler.step(
            said, t - 1, x_t, generator=torch.Generator().manual_seed(t), **eta
        )
        x_s, x0_hat = sampler.step(denoiser, x_t, t, s, generator=torch.Generator().manual_seed(t))
        theirs_s, theirs_0 = expected.prev_sample, expected.pred_original_sample
        if s == 0 and options.get("variance_type") == "fixed_large":
            # They leave the noise out of a step from their index 0, we out of a step to our t = 0.
            theirs_s = theirs_0
        for one, other in ((x_s, theirs_s), (x0_hat, theirs_0)):
            scale = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * scale)
        x_t = x_s / x_s.abs().max()


@given(st.sampled_from(list(SPACINGS)), st.integers(1, 3000), st.data())
def test_moments_are_distinct_whole_times_that_fall(
    spacing: str, T: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, T))
    times = moments(spacing, T, steps)
    assert len(times) == steps
    assert times[-1] >= 1
    assert times[0] <= T
    assert all(t > s for t, s in itertools.pairwise(times))


def test_moments_are_where_each_spacing_says() -> None:
    assert moments("trailing", 1000, 5) == [1000, 800, 600, 400, 200]
    assert moments("leading", 1000, 5) == [801, 601, 401, 201, 1]
    assert moments("linspace", 1000, 5) == [1000, 750, 501, 251, 1]
    assert moments("quadratic", 1000, 5) == [1000, 640, 360, 160, 40]
    for spacing in SPACINGS:
        assert moments(spacing, 50, 50) == list(range(50, 0, -1))
    assert moments("trailing", 10, 1) == moments("linspace", 10, 1) == [10]


def test_moments_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match=r"sample\.spacing is 'even' but should be one of traili"):
        moments("even", 10, 5)
    for steps in (0, 11):
        with pytest.raises(ValueError, match=rf"steps is {steps} but should be in 1 \.\.\. 10"):
            moments("trailing", 10, steps)


def drawn(
    sampler: Sampler, n: int, block: int, kept: int = 4, frames: int = 3
) -> tuple[Tensor, Trajectories]:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 30), mean=0.5, std=0.5)
    times = moments("trailing", 30, 10)
    trajectories = Trajectories(times, frames=frames, points=kept)
    samples = draw_samples(
        sampler,
        denoiser,
        times,
        n=n,
        block=block,
        seed=0,
        device=torch.device("cpu"),
        trajectories=trajectories,
    )
    return samples, trajectories


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_the_number_of_cores_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler
) -> None:
    seen = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        samples, trajectories = drawn(sampler, n=23, block=5, kept=12)
        seen.append((samples, trajectories.x, trajectories.x0_hat))
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


@pytest.mark.parametrize("block", [4, 5, 100])
def test_trajectories_end_in_the_samples_and_start_in_noise(block: int) -> None:
    samples, trajectories = drawn(DDPM(variance="posterior"), n=13, block=block, kept=9, frames=50)
    assert samples.shape == (13, 2)
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0
    assert all(t > s for t, s in itertools.pairwise(trajectories.t))
    assert bool(trajectories.x.isfinite().all())
    assert torch.equal(trajectories.x[-1], samples[:9])
    assert torch.equal(trajectories.x0_hat[-1], samples[:9])


def test_no_more_frames_are_kept_than_asked_for() -> None:
    _, trajectories = drawn(DDIM(eta=0), n=3, block=3, kept=2, frames=4)
    assert 2 <= len(trajectories.t) <= 4
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_named_sampler_can_be_had(params: Params, name: str) -> None:
    assert isinstance(sampler_of(params.model_copy(update={"sampler": name})), SAMPLERS[name])


def test_an_unknown_sampler_is_refused_with_the_choices(params: Params) -> None:
    with pytest.raises(UserError, match=r"sampler is 'heun' but should be one of ddpm, ddim; cha"):
        sampler_of(params.model_copy(update={"sampler": "heun"}))
