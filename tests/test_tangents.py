import pytest
import torch
from conftest import shipped_schedule
from sampler_cases import five_point_denoiser
from torch import Tensor, nn

from ddpm.core.compute import stream
from ddpm.core.gradient import HasJacobian
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.tangents import (
    identity_like,
    prediction_with_jacobian,
    stack,
    unstack,
    with_tangents,
)
from ddpm.networks.registry import NETWORKS


def test_points_and_tangents_come_back() -> None:
    x, tangents = torch.randn(4, 2), torch.randn(4, 2, 2)
    again, tangents_again = unstack(stack(x, tangents))
    assert torch.equal(again, x)
    assert torch.equal(tangents_again, tangents)
    assert stack(x, tangents)[4:8].equal(tangents[:, :, 0])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_denoiser_maps_tangents_by_its_jacobian(prediction: str) -> None:
    denoiser = five_point_denoiser(shipped_schedule("linear", 1000), prediction)
    x = torch.randn(3, 2, dtype=torch.float64, generator=stream(0, "x"))
    carried = with_tangents(denoiser)(stack(x, 3 * identity_like(x)), 400)
    for result, k in ((carried[0], 0), (carried[1], 1)):
        value, tangents = unstack(result)
        torch.testing.assert_close(value, denoiser(x, 400)[k])
        for i in range(3):
            jacobian = torch.autograd.functional.jacobian(
                lambda point, k=k: denoiser(point[None], 400)[k][0], x[i]
            )
            torch.testing.assert_close(tangents[i], 3 * jacobian)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_jacobian_of_every_network_agrees_with_autograd(
    name: str, generator: torch.Generator
) -> None:
    from conftest import shipped

    network = NETWORKS[name].model_validate(shipped()["networks"][name]).build(30).double()
    network.initialise(generator=generator)
    nn.init.normal_(network.read_out.weight, generator=generator)
    x, t = torch.randn(5, 2, generator=generator).double(), torch.tensor([7.5]).double()

    class Plain(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            value: Tensor = network(x, t)
            return value

    assert not isinstance(Plain(), HasJacobian)
    value, jacobian = prediction_with_jacobian(network, x, t)
    expected, by_autograd = prediction_with_jacobian(Plain(), x, t)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(jacobian, by_autograd)
