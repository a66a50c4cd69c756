import pytest
import torch
from exact_cases import gaussian_model
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.params import LossSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.studies.validation import measure_validation
from ddpm.training.loop import validation_batch
from ddpm.training.task import Task

LOSS = LossSettings(neighbours=1, time_power=0.5, integer_times=False)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_excess_is_the_squared_error_and_the_optimum_is_that_of_gaussian_data(
    prediction: str,
) -> None:
    # A model that is off the exact prediction by 0.1 in both coordinates.
    exact = gaussian_model().exact
    kind, schedule = PREDICTIONS[prediction], exact.schedule

    def function(x: Tensor, t: Tensor) -> Tensor:
        x = x.double()
        v = exact.velocity(x, t.double())
        a, sigma = (level[:, None] for level in schedule.levels_of(t))
        estimates = PREDICTIONS["v"].split(v, x, a, sigma)
        return kind.target(*estimates, a, sigma) + 0.1

    model = gaussian_model(Denoiser(function, kind, schedule, torch.float32))
    x0 = exact.sample(5000, 0, generator=stream(0, "test")).float()
    batch = validation_batch(Task(schedule, kind, LOSS), x0, 0)
    measured = measure_validation(model, batch)
    assert measured["excess"].value == pytest.approx(0.01, rel=1e-3)
    # Given x_t, x_0 has the variance s^2 sigma^2 / (a^2 s^2 + sigma^2), and v that over sigma^2.
    a, sigma = schedule.levels_of(batch.t)
    posterior = 0.3**2 * sigma**2 / (a**2 * 0.3**2 + sigma**2)
    factor = {"x0": 1.0, "eps": a / sigma, "v": 1 / sigma}[prediction]
    expected = float((posterior * torch.as_tensor(factor) ** 2).mean())
    assert measured["optimal"].value == pytest.approx(expected, abs=4 * measured["optimal"].se)
    difference = measured["loss"].value - measured["optimal"].value
    assert difference == pytest.approx(0.01, abs=0.015)
