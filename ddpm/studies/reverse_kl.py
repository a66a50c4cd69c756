"""KL(sampler || truth) of a deterministic sampler, from the exact density of its output.

    KL(sampler || truth) = E v,  v = log q(x_0) - log p_0(x_0)

The mean is over the sampler's own output, so no other sample is needed. A single v of a network may
reach hundreds of nats, and then decides the mean; the mean of min(v, 30) is more robust. E exp(-v)
is the mass of the truth that the sampler reaches, counted once for each x_T that leads there: 1 if
nothing folds and nothing is missed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.diffusion.denoiser import Denoiser
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.output_density import output_density
from ddpm.sampling.sampler import Sampler

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]

_CUT = 30


class ReverseKL(NamedTuple):
    """Log-ratios of a sampler's output, from which KL(sampler || truth) follows.

    Attributes:
        log_ratios: v = log q(x_0) - log p_0(x_0) in nats, at each x_0.
        reversed: Whether the determinant of d x_0 / d x_T is negative there.
    """

    log_ratios: PerPoint
    reversed: Bool[Tensor, " n"]

    @property
    def value(self) -> Mean:
        """KL(sampler || truth) in nats; where the map folds, a lower bound."""
        return mean_of(self.log_ratios)

    @property
    def cut(self) -> Mean:
        """The same with each v cut at 30 nats."""
        return mean_of(self.log_ratios.clamp(max=_CUT))

    @property
    def folded(self) -> float:
        """Fraction of the points where the map reverses orientation."""
        return float(self.reversed.double().mean())

    @property
    def mass(self) -> float:
        """E exp(-v): the mass of the truth that is reached; above 1 only by folds or chance."""
        return float((-self.log_ratios).exp().mean())

    def minus(self, reference: "ReverseKL") -> tuple[Mean, Mean]:
        """Differences of `value` and `cut` from those of a sampler that started from the same x_T.

        What the two have in common cancels, such as the error of their network.
        """
        pairs = (self.log_ratios, reference.log_ratios)
        cut = [log_ratios.clamp(max=_CUT) for log_ratios in pairs]
        return mean_of(pairs[0] - pairs[1]), mean_of(cut[0] - cut[1])


def reverse_kl(
    model: ModelUnderTest,
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
    *,
    n: int,
    name: str = "reverse_kl",
) -> ReverseKL:
    """Measure a deterministic sampler on n random x_T, the same for all samplers of a model.

    Args:
        model: Supplies the exact density of the data, which must have noise.
        sampler: A deterministic sampler.
        denoiser: The denoiser that it uses.
        times: Decreasing times of its steps.
        n: Number of points.
        name: Random stream of the points.

    Raises:
        UserError: If the sampler adds noise, or the data have none and so no density.
    """
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=stream(model.seed, name))
    return reverse_kl_from(x_T, model, sampler, denoiser, times)


def reverse_kl_from(
    x_T: Points,
    model: ModelUnderTest,
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
) -> ReverseKL:
    """Measure a deterministic sampler on given x_T from N(0, I); see `reverse_kl`."""
    if not model.noise > 0:
        raise UserError(
            "the noise of the data is 0, so that they have no density and KL is infinite; measure"
            " data with noise"
        )
    output = output_density(sampler, denoiser, x_T, times)
    log_ratios = output.log_density - model.exact.log_density(output.x, 0)
    return ReverseKL(log_ratios, output.determinant < 0)
