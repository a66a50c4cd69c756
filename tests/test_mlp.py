import pytest
import torch
from conftest import shipped
from torch import nn

from ddpm.core.errors import UserError
from ddpm.core.settings import validate
from ddpm.networks.mlp import ResidualMLP, ResidualMLPSettings
from ddpm.networks.network import Network
from ddpm.networks.registry import NETWORKS


@pytest.fixture(params=NETWORKS)
def any_network(request: pytest.FixtureRequest) -> Network:
    """Every network at its shipped sizes, with initial weights."""
    return initialised(request.param)


def initialised(name: str, seed: int = 0) -> Network:
    network = NETWORKS[name].model_validate(shipped()["networks"][name]).build(30)
    network.initialise(generator=torch.Generator().manual_seed(seed))
    return network


def test_a_new_network_predicts_zero(any_network: Network, generator: torch.Generator) -> None:
    x_t = torch.randn(5, 2, generator=generator)
    assert torch.equal(any_network(x_t, torch.arange(5.0)), torch.zeros(5, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_generator_alone_determines_the_weights(name: str) -> None:
    torch.manual_seed(1)
    weights = initialised(name).state_dict()
    torch.manual_seed(2)
    for key, tensor in initialised(name).state_dict().items():
        assert torch.equal(weights[key], tensor), key
    other = initialised(name, seed=1).state_dict()
    assert any(not torch.equal(weights[key], other[key]) for key in weights)


def test_frequencies_and_weights_are_drawn_anew_for_another_seed() -> None:
    weights, other = (initialised("mlp", seed).state_dict() for seed in (0, 1))
    for name in ("frequencies", "read_in.weight", "read_in.bias", "blocks.0.weight"):
        assert not torch.equal(weights[name], other[name]), name


def test_the_frequencies_have_the_standard_deviation_of_the_settings() -> None:
    values = shipped()["networks"]["mlp"] | {"fourier_features": 5000, "fourier_scale": 0.7}
    network = validate(ResidualMLPSettings, values).build(30)
    network.initialise(generator=torch.Generator().manual_seed(0))
    assert float(network.frequencies.std()) == pytest.approx(0.7, rel=0.04)


def test_one_time_for_all_is_the_same_time_for_each(
    any_network: Network, generator: torch.Generator
) -> None:
    with torch.no_grad():
        for parameter in any_network.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    x_t = torch.randn(5, 2, generator=generator)
    shared = any_network(x_t, torch.tensor([7.5]))
    torch.testing.assert_close(shared, any_network(x_t, torch.full((5,), 7.5)))
    assert not torch.allclose(shared, any_network(x_t, torch.tensor([8.5])))


def test_the_network_sees_t_relative_to_T(  # noqa: N802
    network: ResidualMLP, generator: torch.Generator
) -> None:
    longer = network.settings.build(10 * network.T)
    nn.init.normal_(network.read_out.weight, generator=generator)
    longer.load_state_dict(network.state_dict())
    x_t = torch.randn(5, 2, generator=generator)
    torch.testing.assert_close(network(x_t, torch.tensor([7.5])), longer(x_t, torch.tensor([75.0])))


def test_every_block_adds_to_the_one_before(
    network: ResidualMLP, generator: torch.Generator
) -> None:
    # Blocks without weights leave the network as it is without blocks.
    nn.init.normal_(network.read_out.weight, generator=generator)
    shallow = network.settings.model_copy(update={"blocks": 0}).build(network.T)
    weights = network.state_dict()
    shallow.load_state_dict({name: weights[name] for name in shallow.state_dict()})
    x_t, t = torch.randn(5, 2, generator=generator), torch.tensor([7.5])
    assert not torch.allclose(network(x_t, t), shallow(x_t, t))
    for parameter in network.blocks.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(network(x_t, t), shallow(x_t, t))


def test_a_network_of_no_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"networks\.mlp\.width is 0 but should be greater than"):
        validate(ResidualMLPSettings, shipped()["networks"]["mlp"] | {"width": 0}, "networks.mlp")
