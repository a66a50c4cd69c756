import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import gaussian_log_density, gaussian_truth, model_density

from ddpm import runtime
from ddpm.likelihood import _with_divergence, log_likelihood
from ddpm.runtime import stream
from ddpm.schedules import SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_on_gaussian_data_the_likelihood_is_the_closed_form(name: str, tolerance: float) -> None:
    truth = gaussian_truth(shipped_schedule(name, 200))
    x = truth.sample(700, 0, generator=stream(0, "x"))
    mean, std = model_density(truth)
    found = log_likelihood(truth.denoiser, x, 0, tolerance=tolerance)
    error = found - gaussian_log_density(x, mean, std**2)
    assert abs(float(error.mean())) < 20 * tolerance
    assert float(error.abs().max()) < 200 * tolerance


def test_from_a_later_time_it_is_the_density_there() -> None:
    schedule = shipped_schedule("linear", 1000)
    truth = gaussian_truth(schedule)
    x = truth.sample(50, 300.5, generator=stream(0, "x"))
    found = log_likelihood(truth.denoiser, x, 300.5, tolerance=1e-6)
    # What is left is that x_T is not quite N(0, I).
    torch.testing.assert_close(found, truth.log_density(x, 300.5), rtol=0, atol=2e-2)


def test_the_divergence_is_the_trace_of_the_jacobian() -> None:
    matrix = torch.tensor([[2.0, 5.0], [-1.0, 0.5]]).double()

    def f(x: torch.Tensor) -> torch.Tensor:
        return x @ matrix.T + x.pow(3)

    x = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    y, divergence = _with_divergence(f, x)
    assert torch.equal(y, f(x))
    assert not y.requires_grad
    for k in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda one: f(one[None])[0], x[k])
        assert float(divergence[k]) == pytest.approx(float(jacobian.trace()))


def test_a_density_carried_by_a_flow_still_integrates_to_one() -> None:
    # A field that belongs to no data: what leaves one place enters another.
    truth = gaussian_truth(shipped_schedule("cosine", 50))
    bulge = truth.denoiser.__class__(
        lambda x, t: truth.velocity(x, t.double()) + 0.3 * torch.sin(2 * x.flip(1)),
        truth.denoiser.prediction,
        truth.schedule,
        torch.float64,
    )
    side = torch.linspace(-4, 5, 91, dtype=torch.float64)
    log_q = log_likelihood(bulge, torch.cartesian_prod(side, side), 0, tolerance=1e-5)
    assert float(log_q.exp().sum()) * 0.1**2 == pytest.approx(1, abs=1e-3)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = gaussian_truth(shipped_schedule("linear", 50))
    x = truth.sample(1300, 0, generator=stream(0, "x"))
    seen = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        seen.append(log_likelihood(truth.denoiser, x, 0, tolerance=1e-3))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    assert math.isfinite(float(seen[0].sum()))
