import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_truth, model_density

from ddpm.flow import angle, first_time, flow_samples, time_at
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.runtime import stream
from ddpm.schedules import SCHEDULES, Schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_angle_and_time_are_each_others_inverse(name: str) -> None:
    schedule = shipped_schedule(name, 100)
    for t in (1e-3, 0.5, 1.0, 7.25, 50.0, 99.5, 100.0):
        phi = angle(schedule, t)
        a, sigma = schedule.levels(t)
        assert (math.cos(phi), math.sin(phi)) == pytest.approx((a, sigma), abs=1e-12)
        assert time_at(schedule, phi) == pytest.approx(t, rel=1e-6)
    assert angle(schedule, 0) == 0
    assert time_at(schedule, 0.0) == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_the_flow_takes_noise_to_gaussian_data(name: str, tolerance: float) -> None:
    truth = gaussian_truth(shipped_schedule(name, 200))
    x_T = torch.randn(600, 2, dtype=torch.float64, generator=stream(0, "noise"))
    mean, std = model_density(truth)
    found = flow_samples(truth.denoiser, x_T, noise=0.6, tolerance=tolerance)
    torch.testing.assert_close(found, mean + std * x_T, rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize(
    ("prediction", "noise", "expected"),
    [("v", 0.02, 0), ("eps", 0.02, 0), ("x0", 0.02, 1), ("v", 0.0, 1)],
)
def test_the_flow_ends_where_it_has_a_density(prediction: str, noise: float, expected: int) -> None:
    schedule = shipped_schedule("linear", 100)
    denoiser = Denoiser(lambda x, t: x, PREDICTIONS[prediction], schedule)
    assert first_time(denoiser, noise) == expected


def test_a_flow_that_stops_at_1_takes_its_last_step_to_the_denoised_point() -> None:
    # One point as data: wherever the flow is at t = 1, the best guess is the point.
    truth = gaussian_truth(shipped_schedule("linear", 100), noise=0.0)
    x_T = torch.randn(20, 2, dtype=torch.float64, generator=stream(0, "noise"))
    found = flow_samples(truth.denoiser, x_T, noise=0.0, tolerance=1e-4)
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.25]]).double().expand(20, 2))


@pytest.mark.parametrize("beta_end", [0.05, 0.1, 0.5])
def test_time_is_found_where_almost_nothing_is_left_of_the_data(beta_end: float) -> None:
    betas = torch.linspace(1e-4, beta_end, 1000, dtype=torch.float64)
    schedule = Schedule.from_betas(betas)
    for t in (1.0, 500.0, 900.0, 1000.0):
        a, _ = schedule.levels(t)
        found = time_at(schedule, angle(schedule, t))
        assert 0 <= found <= 1000
        # The angle itself holds sqrt(alpha_bar) to 1e-16.
        assert found == pytest.approx(t, abs=1e-6) or a < 1e-9


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_signal_at_the_end_the_angle_is_a_right_one(name: str) -> None:
    schedule = shipped_schedule(name, 1000).without_signal_at_end()
    assert angle(schedule, 1000) == math.pi / 2
    for t in (1.0, 998.7, 999.5, 1000.0):
        assert time_at(schedule, angle(schedule, t)) == pytest.approx(t, abs=1e-4)
