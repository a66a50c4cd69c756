import math

import pytest
import torch
from conftest import shipped_schedule
from sampler_cases import (
    WITHOUT_LOG_SNR,
    clean_gaussian,
    end_moments,
    gaussian_denoiser,
    measured_order,
    take_step,
)

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.distribution import ExactDistribution
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.one_step import DDIM, DDPM, ODE, Heun
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import SPACINGS, sampling_times


@pytest.mark.parametrize(
    "sampler", [DDPM(variance="posterior"), DDIM(eta=0), DDIM(eta=0.5), DDIM(eta=1)], ids=repr
)
def test_when_data_is_one_point_every_step_keeps_the_variance_of_the_process(
    sampler: Sampler,
) -> None:
    # For known x_0 the posterior is exact: x_s has variance sigma_s^2 at every s.
    schedule = shipped_schedule("cosine", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=0.0)
    x_t = float(schedule.sigma[40]) * torch.ones(1, 2).double()
    e = torch.randn(1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (39, 20.5, 5):
        # With the same noise, the difference is the factor of x_t, and the rest is noise.
        from_zero, _ = take_step(sampler, denoiser, 0 * x_t, 40, s)
        from_sigma, _ = take_step(sampler, denoiser, x_t, 40, s)
        variance = float((from_sigma - from_zero)[0, 0] ** 2 + (from_zero / e)[0, 0] ** 2)
        assert variance == pytest.approx(schedule.levels(s)[1] ** 2)


@pytest.mark.parametrize("steps", [50, 10])
def test_with_variance_beta_standard_normal_data_keep_their_variance(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the last step, which adds no noise, shrinks it, as the denoiser does.
    schedule = shipped_schedule("linear", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=1.0)
    times = sampling_times("trailing", schedule, steps)
    _, variance = end_moments(DDPM(variance="beta"), denoiser, times, monkeypatch)
    assert variance == pytest.approx(schedule.levels(times[-1])[0] ** 2, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_with_the_analytic_variance_any_number_of_steps_reproduces_gaussian_data(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule("cosine", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.3, std=0.5)
    clean = clean_gaussian(0.3, 0.5, n=100_000)
    times = sampling_times("trailing", schedule, steps)
    mean, variance = end_moments(DDPM(variance="analytic"), denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.3, abs=1e-3)
    assert variance == pytest.approx(0.25, rel=0.02)
    _, posterior_variance = end_moments(DDPM(variance="posterior"), denoiser, times, monkeypatch)
    assert posterior_variance < 0.24 or steps == 50


def test_the_analytic_variance_is_refused_without_clean_points() -> None:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 50), 0.0, 0.5)
    with pytest.raises(UserError, match=r"measured no denoiser at t = 50; pass clean points to dr"):
        take_step(DDPM(variance="analytic"), denoiser, torch.zeros(3, 2).double(), 50, 40)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 20, 60])
def test_ddim_with_eta_1_equals_ddpm_on_the_same_noise(spacing: str, steps: int) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 60), mean=0.3, std=0.6)
    times = sampling_times(spacing, denoiser.schedule, steps)
    x_T = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    samples = [
        run_sampler(sampler, denoiser, x_T, times, generator=torch.Generator().manual_seed(2)).x
        for sampler in (DDIM(eta=1), DDPM(variance="posterior"))
    ]
    torch.testing.assert_close(*samples)


@pytest.mark.parametrize(("sampler", "order"), [(DDIM(eta=0), 1), (Heun(churn=0), 2)], ids=repr)
def test_the_error_falls_with_the_order_of_the_sampler(sampler: Sampler, order: int) -> None:
    assert measured_order(sampler) == pytest.approx(order, abs=0.2)


def test_heun_keeps_digits_in_float32_where_little_signal_is_left() -> None:
    schedule = shipped_schedule("cosine", 1000)
    denoiser = gaussian_denoiser(schedule, 0.3, 0.5)
    times = sampling_times("trailing", schedule, 10)
    x_T = torch.randn(200, 2, generator=stream(0, "x"))
    single, double = (
        run_sampler(Heun(churn=0), denoiser, x, times, generator=torch.Generator()).x.double()
        for x in (x_T, x_T.double())
    )
    # The rest is float32's rounding of the slopes, over a first step of 2e4 in sigma_ve.
    assert float((single - double).abs().median()) < 2e-3


def test_the_adaptive_solver_is_the_flow_and_counts_its_evaluations() -> None:
    schedule = shipped_schedule("cosine", 100)
    denoiser = gaussian_denoiser(schedule, 0.4, 0.5)
    x_T = torch.randn(7, 2, dtype=torch.float64, generator=stream(0, "x"))
    result = run_sampler(ODE(tolerance=1e-7), denoiser, x_T, [100.0], generator=torch.Generator())
    assert result.evaluations > 20
    expected = flow_samples(denoiser, x_T, noise=0.5, tolerance=1e-9)
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-5)


def test_the_adaptive_solver_stops_early_where_the_flow_does_not_reach_the_data() -> None:
    # The data are exactly one point, so the velocity is not finite at t = 0.
    schedule = shipped_schedule("linear", 100)
    points = torch.tensor([[0.5, -0.25]]).double()
    denoiser = ExactDistribution.from_points(points, schedule).denoiser
    x_T = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    for times in ([100.0], [100.0, 1.0], [100.0, 0.5]):
        result = run_sampler(ODE(tolerance=1e-4), denoiser, x_T, times, generator=torch.Generator())
        torch.testing.assert_close(result.x, points.expand(6, 2))


@pytest.mark.parametrize("sampler", WITHOUT_LOG_SNR, ids=repr)
@pytest.mark.parametrize("name", ["linear", "cosine", "first_principles"])
def test_without_terminal_signal_gaussian_data_are_reproduced(
    sampler: Sampler, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule(name, 1000).without_terminal_signal()
    denoiser = gaussian_denoiser(schedule, mean=0.7, std=0.5)
    times = [1000.0] if isinstance(sampler, ODE) else sampling_times("trailing", schedule, 1000)
    clean = clean_gaussian(0.7, 0.5)
    mean, variance = end_moments(sampler, denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert math.sqrt(variance) == pytest.approx(0.5, rel=0.03)
