import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from ddpm.core.errors import UserError
from ddpm.data.scaling import Scaling


def test_scaling_standardises_with_one_scalar_and_is_undone(generator: torch.Generator) -> None:
    x = torch.randn(50, 2, generator=generator) * torch.tensor([3.0, 0.5]) + 7
    scaling = Scaling.from_points(x)
    z = scaling.to_model(x.double())
    torch.testing.assert_close(z.mean(0), torch.zeros(2).double())
    assert float(z.square().sum(1).mean()) == pytest.approx(2)
    torch.testing.assert_close(
        z.std(0)[0] / z.std(0)[1], x.double().std(0)[0] / x.double().std(0)[1]
    )
    torch.testing.assert_close(scaling.to_data(z), x.double())


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_points_keep_their_precision(precision: torch.dtype) -> None:
    scaling = Scaling(torch.tensor([0.1, -0.2]).double(), 0.7)
    x = torch.ones(3, 2, dtype=precision)
    assert scaling.to_model(x).dtype == precision
    assert scaling.to_data(x).dtype == precision


def test_a_density_is_mapped_by_the_jacobian() -> None:
    # z = (x - mean) / scale of Gaussian x is Gaussian with the standard deviation divided by scale.
    scaling = Scaling(torch.tensor([0.1, -0.2]).double(), 0.7)
    eye, x = torch.eye(2).double(), torch.tensor([[0.3, 0.5], [-2.0, 1.0]]).double()
    in_data_units = MultivariateNormal(scaling.mean, 0.3**2 * eye).log_prob(x)
    in_model_units = MultivariateNormal(torch.zeros(2).double(), (0.3 / 0.7) ** 2 * eye)
    log_density = in_model_units.log_prob(scaling.to_model(x)) + scaling.log_jacobian
    torch.testing.assert_close(log_density, in_data_units)
    assert scaling.log_jacobian == pytest.approx(-2 * math.log(0.7))


@pytest.mark.parametrize(
    ("points", "scale"),
    [
        (torch.ones(5, 2), "0"),
        (torch.tensor([[1e200, 0.0], [-1e200, 0.0]], dtype=torch.float64), "inf"),
    ],
)
def test_points_that_cannot_be_scaled_are_refused(points: torch.Tensor, scale: str) -> None:
    with pytest.raises(
        UserError, match=rf"standard deviation of {scale} but it should be positive"
    ):
        Scaling.from_points(points)
