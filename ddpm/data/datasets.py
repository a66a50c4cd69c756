"""Data sets by name: points on a curve with Gaussian noise around them.

    x = c(u) + noise * e,  u uniform on [u_min, u_max],  e ~ N(0, I)

Because curve and noise are known, so is the density of the points at every noise level, see
`ddpm.reference.distribution`. To add a data set, write a class with its `curve` here, enter it in
DATASETS at the end, and give its values under `datasets` in params.yaml.

References:
    The spiral is the blog's: Lior Sinai, "Denoising diffusion probabilistic models from first
    principles", part 1.
    https://liorsinai.github.io/machine-learning/2022/12/03/denoising-diffusion-1-spiral.html
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from jaxtyping import Float64
from pydantic import AfterValidator, Field
from torch import Tensor
from typing_extensions import override

from ddpm.core.settings import Real, Settings
from ddpm.data.curves import Curve

_MIN_NOISE = 0.001


def _refuse_tiny_noise(value: float) -> float:
    # The exact density is an integral along the curve, which needs more nodes for smaller noise.
    if 0 < value < _MIN_NOISE:
        raise ValueError(f"should be 0, or at least {_MIN_NOISE:g}")
    return value


class Dataset(Settings, ABC):
    """A distribution of points around a curve.

    Attributes:
        noise: Standard deviation of the noise around the curve, in data units; 0 is allowed.
    """

    noise: Annotated[Real, AfterValidator(_refuse_tiny_noise), Field(ge=0, le=10)]

    @property
    @abstractmethod
    def curve(self) -> Curve:
        """The curve that the points lie around."""

    def sample(self, n: int, *, generator: torch.Generator) -> Float64[Tensor, "n 2"]:
        """Draw n points, in data units."""
        return self.curve.sample(n, self.noise, generator=generator)


def _spiral(u: Float64[Tensor, " n"]) -> Float64[Tensor, "n 2"]:
    return torch.stack((u * torch.cos(u), u * torch.sin(u)), dim=1)


SPIRAL = Curve(raw=_spiral, u_min=1.5 * math.pi, u_max=4.5 * math.pi)


class Spiral(Dataset):
    """The Archimedean spiral (u cos u, u sin u) with u from 1.5 pi to 4.5 pi.

    Example:
        >>> points = Spiral(noise=0.02).sample(1000, generator=torch.Generator().manual_seed(0))
        >>> points.shape
        torch.Size([1000, 2])
    """

    @property
    @override
    def curve(self) -> Curve:
        return SPIRAL


DATASETS: dict[str, type[Dataset]] = {
    "spiral": Spiral,
}
