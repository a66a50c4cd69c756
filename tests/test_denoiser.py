import pytest
import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.process import q_sample

SCHEDULE = shipped_schedule("cosine", 60)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("t", [1, 30.5, 60])
def test_the_right_prediction_gives_x0_eps_and_v(
    generator: torch.Generator, name: str, t: float
) -> None:
    x0, eps = torch.randn(2, 9, 2, generator=generator).double().unbind()
    a, sigma = SCHEDULE.levels(t)
    target = PREDICTIONS[name].target(x0, eps, a, sigma)
    denoiser = Denoiser(lambda x, time: target, PREDICTIONS[name], SCHEDULE)
    x_t = q_sample(SCHEDULE, x0, t, eps)
    x0_hat, eps_hat = denoiser(x_t, t)
    torch.testing.assert_close(x0_hat, x0, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(eps_hat, eps, rtol=1e-5, atol=1e-7)
    velocity = denoiser.velocity(x_t, t)
    torch.testing.assert_close(velocity, a * eps - sigma * x0, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("points", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", [None, torch.float32, torch.float64])
def test_the_function_computes_in_its_precision_and_the_result_has_that_of_the_points(
    precision: torch.dtype | None, points: torch.dtype
) -> None:
    inputs: list[Tensor] = []

    def function(x: Tensor, t: Tensor) -> Tensor:
        inputs.extend((x, t))
        return x * t

    denoiser = Denoiser(function, PREDICTIONS["v"], SCHEDULE, precision)
    prediction = denoiser.predict(torch.ones(3, 2, dtype=points), 7.5)
    assert prediction.dtype == points
    assert [tensor.dtype for tensor in inputs] == [precision or points] * 2
    assert inputs[1].tolist() == [7.5]
    assert torch.equal(prediction, torch.full((3, 2), 7.5, dtype=points))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_denoiser_is_regular_if_function_and_prediction_are(name: str) -> None:
    prediction = PREDICTIONS[name]
    regular = Denoiser(lambda x, t: x, prediction, SCHEDULE).regular
    assert regular == prediction.regular
    assert not Denoiser(lambda x, t: x, prediction, SCHEDULE, finite=False).regular
