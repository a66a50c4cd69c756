import copy

import pytest
import torch
from conftest import shipped_schedule
from torch import nn

from ddpm.core.compute import stream
from ddpm.core.params import LossSettings, Params
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.networks.mlp import ResidualMLP, ResidualMLPSettings
from ddpm.training.loop import train
from ddpm.training.task import Task


def network_of(width: int, blocks: int, fourier: int, dtype: torch.dtype) -> ResidualMLP:
    settings = ResidualMLPSettings(
        width=width, blocks=blocks, fourier_features=fourier, fourier_scale=0.3, time_features=3
    )
    network = settings.create(100, generator=stream(0, "network"))
    assert isinstance(network, ResidualMLP)
    # A new network predicts zero, and the gradient of all but its last layer would be zero.
    nn.init.normal_(network.read_out.weight, generator=stream(0, "read out"))
    nn.init.normal_(network.read_out.bias, generator=stream(1, "read out"))
    return network.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("batch", [1, 3, 512])
@pytest.mark.parametrize(
    ("width", "blocks", "fourier"), [(2, 0, 0), (5, 1, 4), (64, 3, 16), (33, 5, 0)]
)
def test_loss_and_gradient_agree_with_autograd_to_rounding(
    width: int, blocks: int, fourier: int, batch: int, dtype: torch.dtype, tolerance: float
) -> None:
    network = network_of(width, blocks, fourier, dtype)
    plain = copy.deepcopy(network)
    own = network.loss_gradient(batch)
    assert own is not None
    for step in range(2):  # the second finds the first one's gradients and activations
        x_t, target = torch.randn(2, batch, 2, generator=stream(step, "x")).to(dtype)
        t = 100 * torch.rand(batch, generator=stream(step, "t"))
        loss = own(own.inputs(x_t, t), target)
        plain.zero_grad()
        expected = (plain(x_t, t) - target).square().mean()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        for (name, mine), reference in zip(
            network.named_parameters(), plain.parameters(), strict=True
        ):
            error = (mine.grad - reference.grad).norm() / reference.grad.norm()
            assert error.item() <= tolerance, name


def test_training_with_it_is_training_with_autograd(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LossSettings(neighbours=8, time_power=0.5, integer_times=False)
    task = Task(shipped_schedule("linear", 100), PREDICTIONS["v"], loss)
    points = torch.randn(200, 2, generator=stream(0, "points")).double()
    settings = params.train.model_copy(update={"steps": 30, "warmup": 5})
    networks = []
    for own in (True, False):
        network = network_of(16, 2, 4, torch.float64)
        if not own:
            monkeypatch.setattr(ResidualMLP, "loss_gradient", lambda _self, _batch: None)
        train(network, task, points, points, settings=settings, seed=0)
        networks.append(nn.utils.parameters_to_vector(network.parameters()).detach())
    assert float((networks[0] - networks[1]).norm() / networks[1].norm()) < 1e-10


def test_off_the_cpu_autograd_is_used() -> None:
    assert network_of(4, 1, 2, torch.float32).to("meta").loss_gradient(8) is None
