import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import MEAN, NOISE, gaussian_distribution, model_density

from ddpm.core.compute import stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.flow.probability_flow import angle, first_time, flow_samples, integrate, time_at


@pytest.mark.parametrize("name", SCHEDULES)
def test_angle_and_time_are_inverse_to_each_other(name: str) -> None:
    schedule = shipped_schedule(name, 100)
    for t in (1e-3, 0.5, 1.0, 7.25, 50.0, 99.5, 100.0):
        phi = angle(schedule, t)
        a, sigma = schedule.levels(t)
        assert (math.cos(phi), math.sin(phi)) == pytest.approx((a, sigma), abs=1e-12)
        assert time_at(schedule, phi) == pytest.approx(t, rel=1e-6)
    assert angle(schedule, 0) == 0
    assert time_at(schedule, 0.0) == 0


@pytest.mark.parametrize("beta_end", [0.05, 0.1, 0.5])
def test_the_time_of_an_angle_is_found_where_almost_no_signal_is_left(beta_end: float) -> None:
    betas = torch.linspace(1e-4, beta_end, 1000, dtype=torch.float64)
    schedule = Schedule.from_betas(betas)
    for t in (1.0, 500.0, 900.0, 1000.0):
        a, _ = schedule.levels(t)
        time = time_at(schedule, angle(schedule, t))
        assert 0 <= time <= 1000
        # The angle itself holds sqrt(alpha_bar) to 1e-16.
        assert time == pytest.approx(t, abs=1e-6) or a < 1e-9


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_terminal_signal_the_flow_ends_at_a_right_angle(name: str) -> None:
    schedule = shipped_schedule(name, 1000).without_terminal_signal()
    assert angle(schedule, 1000) == math.pi / 2
    for t in (1.0, 998.7, 999.5, 1000.0):
        assert time_at(schedule, angle(schedule, t)) == pytest.approx(t, abs=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_the_flow_maps_noise_to_gaussian_data(name: str, tolerance: float) -> None:
    exact = gaussian_distribution(shipped_schedule(name, 200))
    x_T = torch.randn(600, 2, dtype=torch.float64, generator=stream(0, "noise"))
    mean, std = model_density(exact)
    samples = flow_samples(exact.denoiser, x_T, noise=NOISE, tolerance=tolerance)
    torch.testing.assert_close(samples, mean + std * x_T, rtol=0, atol=20 * tolerance)


def test_integrating_back_and_forth_returns_to_the_start() -> None:
    denoiser = gaussian_distribution(shipped_schedule("cosine", 100)).denoiser
    x = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "x"))
    later = integrate(denoiser, denoiser.velocity, x, 20.5, 80.0, tolerance=1e-7, name="later")
    back = integrate(denoiser, denoiser.velocity, later, 80.0, 20.5, tolerance=1e-7, name="back")
    assert float((later - x).abs().max()) > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("prediction", "noise", "expected"),
    [("v", 0.02, 0), ("eps", 0.02, 0), ("x0", 0.02, 1), ("v", 0.0, 1)],
)
def test_the_first_time_is_the_earliest_with_a_density(
    prediction: str, noise: float, expected: int
) -> None:
    schedule = shipped_schedule("linear", 100)
    denoiser = Denoiser(lambda x, t: x, PREDICTIONS[prediction], schedule)
    assert first_time(denoiser, noise) == expected


def test_a_flow_that_stops_at_1_returns_the_denoised_points() -> None:
    # The data are one point: wherever the flow is at t = 1, the denoiser returns that point.
    exact = gaussian_distribution(shipped_schedule("linear", 100), noise=0.0)
    x_T = torch.randn(20, 2, dtype=torch.float64, generator=stream(0, "noise"))
    samples = flow_samples(exact.denoiser, x_T, noise=0.0, tolerance=1e-4)
    torch.testing.assert_close(samples, MEAN.expand(20, 2))
