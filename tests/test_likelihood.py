import math
from dataclasses import replace

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_distribution, gaussian_log_density, model_density

from ddpm.core import compute
from ddpm.core.compute import stream
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.flow.likelihood import log_likelihood


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_on_gaussian_data_the_likelihood_equals_the_closed_form(
    name: str, tolerance: float
) -> None:
    exact = gaussian_distribution(shipped_schedule(name, 200))
    x = exact.sample(700, 0, generator=stream(0, "x"))
    mean, std = model_density(exact)
    log_density = log_likelihood(exact.denoiser, x, 0, tolerance=tolerance)
    error = log_density - gaussian_log_density(x, mean, std**2)
    assert abs(float(error.mean())) < 20 * tolerance
    assert float(error.abs().max()) < 200 * tolerance


def test_from_a_later_time_it_is_the_density_at_that_time() -> None:
    exact = gaussian_distribution(shipped_schedule("linear", 1000))
    x = exact.sample(50, 300.5, generator=stream(0, "x"))
    log_density = log_likelihood(exact.denoiser, x, 300.5, tolerance=1e-6)
    # The rest is that x_T is not quite N(0, I).
    torch.testing.assert_close(log_density, exact.log_density(x, 300.5), rtol=0, atol=2e-2)


def test_the_density_of_any_flow_integrates_to_one() -> None:
    # This velocity belongs to no data, but a flow only moves probability from place to place.
    exact = gaussian_distribution(shipped_schedule("cosine", 50))
    bent = replace(
        exact.denoiser,
        function=lambda x, t: exact.velocity(x, t.double()) + 0.3 * torch.sin(2 * x.flip(1)),
    )
    side = torch.linspace(-4, 5, 91, dtype=torch.float64)
    log_density = log_likelihood(bent, torch.cartesian_prod(side, side), 0, tolerance=1e-5)
    assert float(log_density.exp().sum()) * 0.1**2 == pytest.approx(1, abs=1e-3)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gaussian_distribution(shipped_schedule("linear", 50))
    x = exact.sample(1300, 0, generator=stream(0, "x"))
    log_densities = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(compute, "_workers", lambda cores=cores: cores)
        log_densities.append(log_likelihood(exact.denoiser, x, 0, tolerance=1e-3))
    first, *others = log_densities
    assert all(torch.equal(first, other) for other in others)
    assert math.isfinite(float(first.sum()))
