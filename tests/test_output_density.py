import itertools
import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import MEAN, STD, gaussian_distribution, shifted
from sampler_cases import EVERY_SAMPLER, five_point_denoiser
from spiral_cases import spiral
from torch import Tensor

from ddpm.core import compute
from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.flow.likelihood import log_likelihood
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.multistep import UniPC
from ddpm.sampling.one_step import DDIM, DDPM, ODE
from ddpm.sampling.output_density import output_density
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import sampling_times

# Of the flow, the density is compared with its likelihood.
DIFFERENTIATED = [
    sampler for sampler in EVERY_SAMPLER if sampler.deterministic and not isinstance(sampler, ODE)
]


def noise(n: int) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=stream(0, "x_T"))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 200])
def test_on_gaussian_data_the_density_of_ddim_equals_the_closed_form(name: str, steps: int) -> None:
    exact = gaussian_distribution(shipped_schedule(name, 200))
    schedule, x_T = exact.schedule, noise(10)
    times = sampling_times("trailing", schedule, steps)
    output = output_density(DDIM(eta=0), exact.denoiser, x_T, times)
    # In y = x / sqrt(alpha_bar) a step multiplies the distance from the mean by
    # r + (1 - r) Cov(x_0 | x_t) / sigma_ve^2, with r the ratio of sigma_ve.
    levels = [schedule.levels(t) for t in times]
    sigma_ve = [*(sigma / a for a, sigma in levels), 0.0]
    slope = 1 / levels[0][0]
    for start, end in itertools.pairwise(sigma_ve):
        r = end / start
        slope *= r + (1 - r) * STD**2 / (STD**2 + start**2)
    a = levels[0][0]
    torch.testing.assert_close(output.x, MEAN + slope * (x_T - a * MEAN))
    torch.testing.assert_close(output.determinant, torch.full((10,), slope**2).double())
    log_density = -x_T.square().sum(1) / 2 - math.log(2 * math.pi) - 2 * math.log(slope)
    torch.testing.assert_close(output.log_density, log_density)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", DIFFERENTIATED, ids=repr)
def test_the_jacobian_of_every_sampler_agrees_with_finite_differences(
    sampler: Sampler, prediction: str
) -> None:
    schedule = shipped_schedule("linear", 1000)
    denoiser = five_point_denoiser(schedule, prediction)
    times = [1000, 700, 350, 90, 20]
    x_T, h = noise(6), 1e-5

    def run(x: Tensor) -> Tensor:
        return run_sampler(sampler, denoiser, x, times, generator=torch.Generator()).x

    columns = [(run(x_T + h * e) - run(x_T - h * e)) / (2 * h) for e in torch.eye(2).double()]
    output = output_density(sampler, denoiser, x_T, times)
    determinant = torch.stack(columns, dim=2).det()
    torch.testing.assert_close(output.determinant, determinant, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(output.x, run(x_T))


def test_the_density_of_the_flow_is_its_likelihood() -> None:
    exact = spiral()
    output = output_density(ODE(tolerance=1e-7), exact.denoiser, noise(20), [1000])
    expected = log_likelihood(exact.denoiser, output.x, 0, tolerance=1e-7)
    torch.testing.assert_close(output.log_density, expected, rtol=0, atol=1e-4)


def test_a_flow_that_stops_early_ends_with_the_step_of_its_sampler() -> None:
    exact = gaussian_distribution(shipped_schedule("linear", 1000)).denoiser
    denoiser, x_T, h = shifted(exact, "x0", 0.1), noise(6), 1e-3

    def run(x: Tensor) -> Tensor:
        sampler = ODE(tolerance=1e-7)
        return run_sampler(sampler, denoiser, x, [1000], generator=torch.Generator()).x

    columns = [(run(x_T + h * e) - run(x_T - h * e)) / (2 * h) for e in torch.eye(2).double()]
    output = output_density(ODE(tolerance=1e-7), denoiser, x_T, [1000])
    torch.testing.assert_close(output.x, run(x_T))
    determinant = torch.stack(columns, dim=2).det()
    torch.testing.assert_close(output.determinant, determinant, rtol=1e-4, atol=0)


def test_many_steps_have_the_density_of_the_flow() -> None:
    exact = spiral()
    levels = torch.linspace(exact.schedule.log_snr_at(1000), exact.schedule.log_snr_at(1e-4), 300)
    times = [exact.schedule.time_of_log_snr(level) for level in levels.tolist()]
    output = output_density(UniPC(), exact.denoiser, noise(20), times)
    expected = log_likelihood(exact.denoiser, output.x, 0, tolerance=1e-7)
    torch.testing.assert_close(output.log_density, expected, rtol=0, atol=1e-2)


def test_a_map_that_folds_has_negative_determinants() -> None:
    schedule = shipped_schedule("linear", 1000)

    def fold(x: Tensor, _: Tensor) -> Tensor:
        return torch.stack((x[:, 0].abs(), x[:, 1]), dim=1)

    x_T = noise(50)
    output = output_density(DDIM(eta=0), Denoiser(fold, PREDICTIONS["x0"], schedule), x_T, [1000])
    assert torch.equal(output.determinant < 0, x_T[:, 0] < 0)
    assert torch.equal(output.x[:, 0], x_T[:, 0].abs())
    # The true density is twice as large, as two points lead to each.
    log_normal = -x_T.square().sum(1) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close(output.log_density, log_normal)


def test_a_sampler_with_noise_is_refused() -> None:
    denoiser = gaussian_distribution(shipped_schedule("linear", 100)).denoiser
    with pytest.raises(UserError, match="DDPM adds noise"):
        output_density(DDPM(variance="posterior"), denoiser, noise(2), [100])


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = gaussian_distribution(shipped_schedule("linear", 100)).denoiser
    densities = []
    for threads in (1, 3):
        monkeypatch.setattr(compute, "_workers", lambda threads=threads: threads)
        densities.append(output_density(DDIM(eta=0), denoiser, noise(1300), [100, 50]).log_density)
    assert torch.equal(*densities)


def test_the_flow_begins_at_the_first_time() -> None:
    denoiser = gaussian_distribution(shipped_schedule("linear", 100)).denoiser
    x_T = noise(20)
    times = [60.0]
    output = output_density(ODE(tolerance=1e-6), denoiser, x_T, times)
    sampled = run_sampler(ODE(tolerance=1e-6), denoiser, x_T, times, generator=torch.Generator()).x
    assert torch.allclose(output.x, sampled, atol=1e-5)
