import math

import pytest
import torch
from conftest import shipped_schedule

from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.process import q_sample
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return shipped_schedule(request.param, 60)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("t", [1, 30, 60])
def test_the_target_is_split_back_into_x0_and_eps(
    schedule: Schedule, generator: torch.Generator, name: str, t: int
) -> None:
    x0, eps = torch.randn(2, 9, 2, generator=generator).double().unbind()
    a, sigma = float(schedule.alpha_bar[t].sqrt()), float(schedule.sigma[t])
    x_t = q_sample(schedule, x0, t, eps)
    target = PREDICTIONS[name].target(x0, eps, a, sigma)
    x0_hat, eps_hat = PREDICTIONS[name].split(target, x_t, a, sigma)
    torch.testing.assert_close(x0_hat, x0, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(eps_hat, eps, rtol=1e-5, atol=1e-7)


def test_v_is_the_derivative_of_x_t_along_the_circle() -> None:
    # With a = cos(angle) and sigma = sin(angle), v = d x_t / d angle (Salimans & Ho 2022, app. D).
    x0, eps = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.5, 0.2]])
    angle = torch.tensor(0.7, requires_grad=True)
    x_t = angle.cos() * x0 + angle.sin() * eps
    slopes = [torch.autograd.grad(x_t[0, k], angle, retain_graph=True)[0] for k in (0, 1)]
    v = PREDICTIONS["v"].target(x0, eps, math.cos(0.7), math.sin(0.7))
    torch.testing.assert_close(v[0], torch.stack(slopes))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_regular_prediction_is_split_into_finite_values_at_t_0(
    generator: torch.Generator, name: str
) -> None:
    prediction = PREDICTIONS[name]
    output, x = torch.randn(2, 9, 2, generator=generator).unbind()
    x0_hat, eps_hat = prediction.split(output, x, 1.0, 0.0)
    finite = bool(x0_hat.isfinite().all()) and bool(eps_hat.isfinite().all())
    assert finite == prediction.regular
