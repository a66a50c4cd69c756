import itertools
import math

import pytest
import torch
from conftest import shipped_schedule
from sampler_cases import five_point_denoiser, measured_order, take_step
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.sampling.multistep import DPMSolver2M, DPMSolver3M, DPMSolverSDE2M, Stride, UniPC
from ddpm.sampling.one_step import DDIM
from ddpm.sampling.sampler import Sampler

MULTISTEP = [DPMSolver2M(), DPMSolver3M(), DPMSolverSDE2M(), UniPC()]


@pytest.mark.parametrize(
    ("sampler", "order", "start_up"),
    # A third-order method without a corrector needs accurate states before its first step.
    [(DPMSolver2M(), 2, 0), (DPMSolver3M(), 3, 2), (UniPC(), 3, 0)],
    ids=repr,
)
def test_the_error_falls_with_the_order_of_the_sampler(
    sampler: Sampler, order: int, start_up: int
) -> None:
    assert measured_order(sampler, start_up) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("sampler", [DPMSolver2M(), DPMSolver3M(), UniPC()], ids=repr)
def test_without_history_a_step_equals_that_of_ddim(sampler: Sampler) -> None:
    denoiser = five_point_denoiser(shipped_schedule("cosine", 100), "v")
    x_t = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    for t, s in ((95, 80), (60.5, 20.25), (30, 0)):
        x_s, state = take_step(sampler, denoiser, x_t, t, s)
        expected, expected_state = take_step(DDIM(eta=0), denoiser, x_t, t, s)
        torch.testing.assert_close(x_s, expected)
        assert torch.equal(state.x0_hat, expected_state.x0_hat)


@pytest.mark.parametrize("sampler", MULTISTEP, ids=repr)
def test_the_step_to_0_returns_the_predicted_x0(sampler: Sampler) -> None:
    denoiser = five_point_denoiser(shipped_schedule("cosine", 100), "v")
    x_t = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    states = []
    for t, s in itertools.pairwise((90, 60, 30, 0)):
        x_t, state = take_step(sampler, denoiser, x_t, t, s, history=states)
        states.append(state)
    assert torch.equal(x_t, states[-1].x0_hat)


def test_a_stride_holds_the_coefficients_of_its_step() -> None:
    schedule = shipped_schedule("linear", 100)
    stride = Stride.between(schedule, 80.5, 20.25)
    a_s, sigma_s = schedule.levels(20.25)
    a_t, sigma_t = schedule.levels(80.5)
    assert (stride.a_s, stride.sigma_s) == (a_s, sigma_s)
    assert stride.decay == pytest.approx(sigma_s / sigma_t)
    # h is the step in half the log SNR, so that e^-h is the ratio of the noise-to-signal ratios.
    assert math.exp(-stride.h) == pytest.approx((sigma_s / a_s) / (sigma_t / a_t))


def test_unipc_corrects_the_point_before_it_steps_on() -> None:
    denoiser = five_point_denoiser(shipped_schedule("cosine", 100), "v")
    x_t = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    x_s, first = take_step(UniPC(), denoiser, x_t, 80, 60)
    _, second = take_step(UniPC(), denoiser, x_s, 60, 40, history=[first])
    assert torch.equal(first.x_t, x_t)
    # The first corrector repeats the step with the mean of the two estimates of x_0.
    stride = Stride.between(denoiser.schedule, 80, 60)
    x0_mean: Tensor = (first.x0_hat + second.x0_hat) / 2
    expected = stride.decay * x_t - stride.a_s * math.expm1(-stride.h) * x0_mean
    torch.testing.assert_close(second.x_t, expected)
