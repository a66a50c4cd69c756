"""The network: a residual MLP over Fourier features of the point and of the time.

    f = [x, sin(2 pi B x), cos(2 pi B x), sin(w t / T), cos(w t / T)]
    h = W f + b
    h = h + W silu(h) + b          for each block
    out = W silu(h) + b            starts at 0

B is random and fixed: it lets a small network resolve the windings of the spiral. One matrix
product a block, and none for the time alone, keeps a step cheap.

References:
    Tancik et al. 2020 (Fourier features), https://arxiv.org/abs/2006.10739
    Vaswani et al. 2017, section 3.5 (sinusoidal features of time), https://arxiv.org/abs/1706.03762
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from ddpm.params import Model

_DIMENSIONS = 2
# Half a turn of the slowest feature spans t = 0 ... T; the fastest resolves about T / 64.
_SLOWEST, _FASTEST = math.pi / 2, 32 * math.pi


class ResidualMLP(nn.Module):
    """Prediction (eps, x0 or v) for points in the plane.

    Args:
        settings: Sizes and scales.
        T: Number of steps; the network sees t / T.
    """

    frequencies: Tensor
    time_frequencies: Tensor

    def __init__(self, settings: Model, T: int) -> None:
        super().__init__()
        self.settings = settings
        self.T = T
        self.register_buffer("frequencies", torch.empty(_DIMENSIONS, settings.fourier_features))
        self.register_buffer("time_frequencies", torch.empty(settings.time_features))
        features = _DIMENSIONS + 2 * settings.fourier_features + 2 * settings.time_features
        self.read_in = nn.Linear(features, settings.width)
        self.blocks = nn.ModuleList(
            nn.Linear(settings.width, settings.width) for _ in range(settings.blocks)
        )
        self.read_out = nn.Linear(settings.width, _DIMENSIONS)

    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw the frequencies and the weights; the output starts at zero."""
        self.frequencies.normal_(0, self.settings.fourier_scale, generator=generator)
        steps = torch.linspace(0, 1, self.settings.time_features)
        self.time_frequencies.copy_(_SLOWEST * (_FASTEST / _SLOWEST) ** steps)
        for layer in (self.read_in, *self.blocks):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        for parameter in self.read_out.parameters():
            parameter.zero_()

    def forward(
        self, x_t: Float[Tensor, "batch 2"], t: Float[Tensor, " #batch"]
    ) -> Float[Tensor, "batch 2"]:
        """Prediction at x_t (model units) and t in [0, T], one time or one for each point."""
        place = 2 * math.pi * x_t @ self.frequencies
        time = (t / self.T)[:, None] * self.time_frequencies
        time = torch.cat((time.sin(), time.cos()), dim=1).expand(len(x_t), -1)
        h: Tensor = self.read_in(torch.cat((x_t, place.sin(), place.cos(), time), dim=1))
        for block in self.blocks:
            h = h + block(silu(h))
        out: Tensor = self.read_out(silu(h))
        return out
