"""What the tests of samplers share: samplers, denoisers, and moments without Monte Carlo."""

import itertools

import numpy as np
import pytest
import torch
from conftest import shipped, shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import integrate
from ddpm.reference.distribution import ExactDistribution
from ddpm.sampling import sampler as sampler_module
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.one_step import DDIM, DDPM, ODE, Heun
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.sampler import ReverseStep, Sampler, SamplerState

_VARIANTS: list[Sampler] = [
    *(DDPM(variance="posterior"), DDPM(variance="beta"), DDPM(variance="analytic")),
    *(DDIM(eta=0), DDIM(eta=0.5), DDIM(eta=1)),
    ODE(tolerance=1e-5),
    *(Heun(churn=0), Heun(churn=0.2)),
]
# A new sampler is tested with its settings in params.yaml.
EVERY_SAMPLER = [
    *_VARIANTS,
    *(
        kind.model_validate(shipped()["samplers"][name])
        for name, kind in SAMPLERS.items()
        if kind not in {type(sampler) for sampler in _VARIANTS}
    ),
]
WITHOUT_LOG_SNR = [sampler for sampler in EVERY_SAMPLER if not sampler.uses_log_snr]


def gaussian_denoiser(schedule: Schedule, mean: float, std: float) -> Denoiser:
    """The exact denoiser of data N(mean, std^2 I): the mean of x_0 given x_t."""

    def v(x_t: Tensor, t: Tensor) -> Tensor:
        a, sigma = schedule.levels(float(t))
        variance = a**2 * std**2 + sigma**2
        x0 = mean + a * std**2 / variance * (x_t - a * mean)
        eps = sigma / variance * (x_t - a * mean)
        return a * eps - sigma * x0

    return Denoiser(v, PREDICTIONS["v"], schedule)


def five_point_denoiser(schedule: Schedule, prediction: str) -> Denoiser:
    """The exact denoiser of five points, which is not linear, with any prediction type."""
    points = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "five"))
    exact = ExactDistribution.from_points(points, schedule).denoiser
    kind = PREDICTIONS[prediction]

    def function(x: Tensor, t: Tensor) -> Tensor:
        return kind.target(*exact(x, float(t)), *schedule.levels(float(t)))

    return Denoiser(function, kind, schedule, torch.float64)


def clean_gaussian(mean: float, std: float, n: int = 2000) -> Tensor:
    return mean + std * torch.randn(n, 1, dtype=torch.float64, generator=stream(0, "clean"))


def take_step(
    sampler: Sampler,
    denoiser: Denoiser,
    x_t: Tensor,
    t: float,
    s: float,
    *,
    history: list[SamplerState] | None = None,
    seed: int = 0,
) -> tuple[Tensor, SamplerState]:
    generator = torch.Generator().manual_seed(seed)
    return sampler.step(ReverseStep(denoiser, x_t, t, s, history or [], generator))


def end_moments(
    sampler: Sampler,
    denoiser: Denoiser,
    times: list[float],
    monkeypatch: pytest.MonkeyPatch,
    clean: Tensor | None = None,
) -> tuple[float, float]:
    """Mean and variance of the samples from x_T ~ N(0, 1), without Monte Carlo.

    The denoiser is that of Gaussian data, so that every sampler is affine in x_T and its noises:
    x_0 = c + g x_T + sum_k w_k e_k. Row 0 starts at 0 and row 1 at 1, and in each of the other rows
    one noise is 1, which gives c, c + g and c + w_k.
    """
    rows = 2 + len(times)
    x_T = torch.zeros(rows, 1).double()
    x_T[1] = 1
    noisy_row = itertools.count(2)

    def unit_noise(x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.zeros_like(x)
        noise[next(noisy_row)] = 1
        return noise

    clean = torch.zeros(2, 1).double() if clean is None else clean
    prepared = sampler.prepared(denoiser, times, clean, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(sampler_module, "normal_like", unit_noise)
        x_0 = run_sampler(prepared, denoiser, x_T, times, generator=torch.Generator()).x[:, 0]
    weights = x_0[1:] - x_0[0]
    return float(x_0[0]), float(weights.square().sum())


FIRST, LAST = 700.0, 60.0


def measured_order(sampler: Sampler, start_up: int = 0) -> float:
    """Order with which the error at LAST falls in the number of steps from FIRST, on the spiral.

    A multistep method needs accurate states before its first step: `start_up` of them are given.
    """
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    schedule = shipped_schedule("cosine", 1000)
    denoiser = ExactDistribution.from_curves([(1.0, SPIRAL)], 0.05, scaling, schedule).denoiser
    x_first = torch.randn(40, 2, dtype=torch.float64, generator=stream(0, "start"))

    def along_flow(t: float) -> Tensor:
        return integrate(
            denoiser, denoiser.velocity, x_first, FIRST, t, tolerance=1e-10, name="exact"
        )

    exact = along_flow(LAST)
    counts, errors = [20, 40, 80], []
    for steps in counts:
        times = equal_log_snr_times(schedule, steps, start_up)
        history = []
        for t in times[:start_up]:
            x_t = along_flow(t)
            history.append(SamplerState(t, x_t, denoiser(x_t, t)[0]))
        *starts, end = times[start_up:]
        x_last = run_sampler(
            sampler,
            denoiser,
            x_first,
            starts,
            generator=torch.Generator(),
            end=end,
            history=history,
        ).x
        errors.append(float((x_last - exact).square().mean().sqrt()))
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


def equal_log_snr_times(schedule: Schedule, steps: int, start_up: int) -> list[float]:
    """Equal strides in log SNR from FIRST to LAST, with as many again before FIRST as asked."""
    first, last = schedule.log_snr_at(FIRST), schedule.log_snr_at(LAST)
    return [
        schedule.time_of_log_snr(first + (last - first) * k / steps)
        for k in range(-start_up, steps + 1)
    ]
