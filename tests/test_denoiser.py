import torch

from ddpm.denoiser import ResidualMLP
from ddpm.params import Params


def network(params: Params, seed: int = 0) -> ResidualMLP:
    made = ResidualMLP(params.model, 30)
    made.initialise(generator=torch.Generator().manual_seed(seed))
    return made


def test_a_new_network_says_zero(params: Params, generator: torch.Generator) -> None:
    x = torch.randn(5, 2, generator=generator)
    assert torch.equal(network(params)(x, torch.arange(5.0)), torch.zeros(5, 2))


def test_the_generator_alone_decides_the_weights(params: Params) -> None:
    torch.manual_seed(1)
    one = network(params).state_dict()
    torch.manual_seed(2)
    for name, tensor in network(params).state_dict().items():
        assert torch.equal(one[name], tensor), name
    other = network(params, seed=1).state_dict()
    assert not torch.equal(one["frequencies"], other["frequencies"])
    assert not torch.equal(one["read_in.weight"], other["read_in.weight"])


def test_one_time_for_all_is_the_same_time_for_each(
    params: Params, generator: torch.Generator
) -> None:
    made = network(params)
    torch.nn.init.normal_(made.read_out.weight, generator=generator)
    x = torch.randn(5, 2, generator=generator)
    shared, each = made(x, torch.tensor([7.5])), made(x, torch.full((5,), 7.5))
    torch.testing.assert_close(shared, each)
    assert not torch.allclose(shared, made(x, torch.tensor([8.5])))
