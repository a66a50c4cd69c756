import math

import pytest
import torch
from exact_cases import MEAN, STD, gaussian_model
from torch import Tensor

from ddpm.core.errors import UserError
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.sampling.one_step import DDIM, ODE
from ddpm.studies.reverse_kl import ReverseKL, reverse_kl


@pytest.mark.parametrize("width", [0.5, 1.0, 1.1])
def test_it_is_the_divergence_between_two_gaussians(width: float) -> None:
    model = gaussian_model()

    def affine(x: Tensor, _: Tensor) -> Tensor:
        return MEAN + width * STD * x + 0.1

    denoiser = Denoiser(affine, PREDICTIONS["x0"], model.schedule)
    measured = reverse_kl(model, DDIM(eta=0), denoiser, [200], n=4000)
    expected = width**2 - 1 - 2 * math.log(width) + (0.1 / STD) ** 2
    assert measured.value.value == pytest.approx(expected, abs=4 * measured.value.se)
    assert measured.value.se < 0.02
    assert measured.folded == 0
    if width >= 1:  # otherwise exp(-v) has no variance
        assert measured.mass == pytest.approx(1, abs=0.05)


def test_the_converged_flow_of_the_exact_denoiser_has_none() -> None:
    model = gaussian_model()
    flow = reverse_kl(model, ODE(tolerance=1e-6), model.exact.denoiser, [200], n=200)
    assert abs(flow.value.value) < 1e-3
    coarse = reverse_kl(model, DDIM(eta=0), model.exact.denoiser, [200, 100], n=200)
    value, cut = coarse.minus(flow)
    assert value == cut
    assert value.value > 10 * value.se
    assert value.value == pytest.approx(coarse.value.value - flow.value.value)


def test_a_single_point_does_not_decide_the_cut_mean() -> None:
    log_ratios = torch.tensor([0.0, 1.0, 507.0, 0.0]).double()
    measured = ReverseKL(log_ratios, torch.tensor([False, True, False, False]))
    assert measured.value.value == 127
    assert measured.cut.value == 31 / 4
    assert measured.folded == 0.25
    assert measured.mass == pytest.approx((2 + math.exp(-1)) / 4)


def test_data_without_noise_are_refused() -> None:
    model = gaussian_model(noise=0.0)
    with pytest.raises(UserError, match="the noise of the data is 0"):
        reverse_kl(model, DDIM(eta=0), model.exact.denoiser, [200], n=10)
