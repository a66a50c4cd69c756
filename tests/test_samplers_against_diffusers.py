import itertools
import math
from typing import Any

import pytest
import torch
from conftest import shipped_schedule
from sampler_cases import five_point_denoiser, take_step
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.multistep import DPMSolver2M, DPMSolver3M, DPMSolverSDE2M, UniPC
from ddpm.sampling.one_step import DDIM, DDPM, Heun
from ddpm.sampling.sampler import Sampler, SamplerState

pytestmark = [
    # diffusers converts tensors to arrays in a way that NumPy warns about.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
]
T = 100
# Our prediction types and their names in diffusers.
EVERY_PREDICTION = pytest.mark.parametrize(
    ("prediction", "prediction_type"),
    [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")],
)
LINEAR_AND_COSINE = pytest.mark.parametrize("name", ["linear", "cosine"])


def reference_scheduler(kind: str, schedule: Schedule, times: list[int], **options: object) -> Any:  # noqa: ANN401 - a scheduler of diffusers
    """A scheduler of diffusers with our alpha_bar in float64, because its own tables are float32.

    Its index is our t - 1, and its index -1 is our t = 0.
    """
    # Imported here, because it takes seconds and the other workers do without.
    import diffusers

    scheduler = getattr(diffusers, kind)(schedule.T, **options)
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0).double()
    scheduler.set_timesteps(len(times))
    scheduler.timesteps = torch.tensor(times) - 1
    if hasattr(scheduler, "sigmas"):
        levels = [schedule.levels(t) for t in times]
        scheduler.sigmas = torch.tensor([sigma / a for a, sigma in levels] + [0.0]).double()
    return scheduler


def noise_of(seed: int) -> Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@EVERY_PREDICTION
@LINEAR_AND_COSINE
@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        (DDPM(variance="posterior"), "DDPMScheduler", {"variance_type": "fixed_small"}),
        (DDPM(variance="beta"), "DDPMScheduler", {"variance_type": "fixed_large"}),
        (DDIM(eta=0.0), "DDIMScheduler", {}),
        (DDIM(eta=0.7), "DDIMScheduler", {}),
    ],
    ids=repr,
)
def test_every_one_step_sampler_equals_that_of_diffusers_step_by_step(
    sampler: Sampler,
    kind: str,
    options: dict[str, str],
    name: str,
    prediction: str,
    prediction_type: str,
) -> None:
    schedule = shipped_schedule(name, T)
    times = list(range(T, 0, -5))
    scheduler = reference_scheduler(
        kind, schedule, times, prediction_type=prediction_type, clip_sample=False, **options
    )
    eta = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    for t, s in itertools.pairwise((*times, 0)):
        output = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        denoiser = Denoiser(lambda x, t, output=output: output, PREDICTIONS[prediction], schedule)
        theirs = scheduler.step(
            output, t - 1, x_t, generator=torch.Generator().manual_seed(t), **eta
        )
        x_s, state = take_step(sampler, denoiser, x_t, t, s, seed=t)
        their_x_s, their_x0_hat = theirs.prev_sample, theirs.pred_original_sample
        if s == 0 and options.get("variance_type") == "fixed_large":
            # They omit the noise in a step from their index 0, and we in a step to our t = 0.
            their_x_s = their_x0_hat
        assert_agree(x_s, their_x_s)
        assert_agree(state.x0_hat, their_x0_hat)
        x_t = x_s / x_s.abs().max()


@EVERY_PREDICTION
@LINEAR_AND_COSINE
@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        (DPMSolver2M(), "DPMSolverMultistepScheduler", {"solver_order": 2}),
        # Their "heun" integrates the line of the second step as we do; "midpoint" does not.
        (
            DPMSolver3M(),
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "solver_type": "heun"},
        ),
        (
            DPMSolverSDE2M(),
            "DPMSolverMultistepScheduler",
            {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        ),
        (UniPC(), "UniPCMultistepScheduler", {"solver_order": 2}),
    ],
    ids=repr,
)
def test_every_multistep_sampler_equals_that_of_diffusers_step_by_step(
    sampler: Sampler,
    kind: str,
    options: dict[str, object],
    name: str,
    prediction: str,
    prediction_type: str,
) -> None:
    # Their times are whole numbers, and they step in float32. That would show in a step from T
    # itself, where the cosine schedule leaves 5e-5 of the data.
    schedule = shipped_schedule(name, T)
    times = list(range(T - 5, 0, -5))
    scheduler = reference_scheduler(
        kind,
        schedule,
        times,
        prediction_type=prediction_type,
        final_sigmas_type="zero",
        **options,
    )
    denoiser = five_point_denoiser(schedule, prediction)
    our_x = their_x = noise_of(0)
    history: list[SamplerState] = []
    for t, s in itertools.pairwise((*times, 0)):
        noise = {"variance_noise": noise_of(t)} if "algorithm_type" in options else {}
        their_output = denoiser.predict(their_x, t)
        their_x = scheduler.step(their_output, t - 1, their_x, **noise).prev_sample
        our_x, state = take_step(sampler, denoiser, our_x, t, s, history=history, seed=t)
        if isinstance(sampler, DPMSolver3M) and len(history) >= 2 and s > 0:
            # They give the second difference half its weight: add the other half.
            their_x = their_x + half_of_the_second_difference(schedule, [*history, state], s)
        assert_agree(our_x, their_x)
        history = [*history, state][-2:]


def half_of_the_second_difference(
    schedule: Schedule, states: list[SamplerState], s: float
) -> Tensor:
    """Half of what the second difference of three states adds to the step to s."""
    half_log_snr = [schedule.log_snr_at(state.t) / 2 for state in states]
    h = schedule.log_snr_at(s) / 2 - half_log_snr[2]
    gaps = [(later - earlier) / h for earlier, later in itertools.pairwise(half_log_snr)]
    last_slope = (states[2].x0_hat - states[1].x0_hat) / gaps[1]
    earlier_slope = (states[1].x0_hat - states[0].x0_hat) / gaps[0]
    second_difference = (last_slope - earlier_slope) / (gaps[0] + gaps[1])
    integral = 1 - 2 / h + 2 * (1 - math.exp(-h)) / h**2
    return schedule.levels(s)[0] * integral * second_difference / 2


@LINEAR_AND_COSINE
def test_heun_equals_that_of_diffusers_step_by_step(name: str) -> None:
    # They work on y = x / sqrt(alpha_bar), and each of the two evaluations of a step is a call.
    schedule = shipped_schedule(name, T)
    times = list(range(T - 5, 0, -5))
    scheduler = reference_scheduler(
        "HeunDiscreteScheduler", schedule, times, prediction_type="epsilon"
    )
    call_times = [times[0], *itertools.chain(*((t, t) for t in times[1:]))]
    noise_ratios = [sigma / a for a, sigma in map(schedule.levels, call_times)]
    scheduler.sigmas = torch.tensor([*noise_ratios, 0.0]).double()
    scheduler.timesteps = torch.tensor(call_times).double() - 1
    denoiser = five_point_denoiser(schedule, "eps")
    x = noise_of(0)
    y = x / schedule.levels(times[0])[0]
    call = 0
    for t, s in itertools.pairwise((*times, 0)):
        x, _ = take_step(Heun(churn=0), denoiser, x, t, s)
        for _ in range(2 if s > 0 else 1):
            a = schedule.levels(call_times[call])[0]
            eps_hat = denoiser.predict(a * y, call_times[call])
            y = scheduler.step(eps_hat, scheduler.timesteps[call], y).prev_sample
            call += 1
        assert_agree(x, schedule.levels(s)[0] * y)
