"""A residual MLP over Fourier features of the point and of the time.

    f = [x, sin(2 pi B x), cos(2 pi B x), sin(w sqrt(t / T)), cos(w sqrt(t / T)), e_label]
    h = W f + b
    h = h + W silu(h) + b          for each block
    out = W silu(h) + b            starts at 0

e_label, for labelled data alone, is 1 at the place of the label, so that W holds a vector for each
label, its embedding. B is random and fixed. It lets a small network resolve the windings of the
spiral. Training is fast because a block has only one matrix product, and the time features have
none of their own. The root gives small t room: near t = 0, sigma_t grows like sqrt(t), and the
prediction with it.

References:
    Tancik et al. 2020 (Fourier features), https://arxiv.org/abs/2006.10739
    Vaswani et al. 2017, section 3.5 (sinusoidal features of time), https://arxiv.org/abs/1706.03762
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu
from typing_extensions import override

from ddpm.core.compute import matmul, sqrt
from ddpm.core.gradient import LossGradient
from ddpm.core.settings import Integer, Positive
from ddpm.networks.mlp_gradient import MLPGradient
from ddpm.networks.network import Network, NetworkSettings

_DIMENSIONS = 2
# The slowest feature makes a quarter turn over t = 0 ... T, and the fastest 16 turns.
_SLOWEST, _FASTEST = math.pi / 2, 32 * math.pi


class ResidualMLPSettings(NetworkSettings):
    """Sizes of the network.

    `fourier_scale` is the standard deviation of the frequencies B, in cycles per model unit.

    Example:
        >>> sizes = {"width": 64, "blocks": 3, "fourier_features": 32, "time_features": 16}
        >>> settings = ResidualMLPSettings(**sizes, fourier_scale=0.3)
        >>> network = settings.create(1000, generator=torch.Generator().manual_seed(0))
        >>> network(torch.ones(4, 2), torch.tensor([500.0])).shape
        torch.Size([4, 2])
    """

    width: Annotated[Integer, Field(ge=2, le=8192)]
    blocks: Annotated[Integer, Field(ge=0, le=64)]
    fourier_features: Annotated[Integer, Field(ge=0, le=8192)]
    fourier_scale: Annotated[Positive, Field(le=1000)]
    time_features: Annotated[Integer, Field(ge=1, le=8192)]

    @override
    def build(self, T: int, classes: int = 0) -> "ResidualMLP":
        return ResidualMLP(self, T, classes)


class ResidualMLP(Network):
    """Network for points in the plane, as the module describes it.

    Args:
        settings: Sizes and scales.
        T: Number of steps. The network depends on t through sqrt(t / T).
        classes: Number of labels; 0 if there are none.
    """

    frequencies: Tensor
    time_frequencies: Tensor

    def __init__(self, settings: ResidualMLPSettings, T: int, classes: int = 0) -> None:
        super().__init__(classes)
        self.settings = settings
        self.T = T
        self.register_buffer("frequencies", torch.empty(_DIMENSIONS, settings.fourier_features))
        self.register_buffer("time_frequencies", torch.empty(settings.time_features))
        features = _DIMENSIONS + 2 * settings.fourier_features + 2 * settings.time_features
        features += classes + 1 if classes else 0
        self.read_in = nn.Linear(features, settings.width)
        self.blocks = nn.ModuleList(
            nn.Linear(settings.width, settings.width) for _ in range(settings.blocks)
        )
        self.read_out = nn.Linear(settings.width, _DIMENSIONS)

    @override
    @torch.no_grad()
    def initialise(self, *, generator: torch.Generator) -> None:
        self.frequencies.normal_(0, self.settings.fourier_scale, generator=generator)
        exponents = torch.linspace(0, 1, self.settings.time_features)
        self.time_frequencies.copy_(_SLOWEST * (_FASTEST / _SLOWEST) ** exponents)
        for layer in (self.read_in, *self.blocks):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        for parameter in self.read_out.parameters():
            parameter.zero_()

    @override
    def forward(
        self,
        x_t: Float[Tensor, "batch 2"],
        t: Float[Tensor, " #batch"],
        label: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch 2"]:
        h = _affine(self.features(x_t, t, label), self.read_in)
        for block in self.blocks:
            h = _affine(silu(h), block).add_(h)
        return _affine(silu(h), self.read_out)

    @torch.no_grad()
    def with_jacobian(
        self, x_t: Float[Tensor, "batch 2"], t: Float[Tensor, " #batch"]
    ) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2 2"]]:
        """Predict, and differentiate the prediction with respect to x_t.

        Tangents, the derivatives in both directions, pass through each layer with the values.
        """
        features = self.features(x_t, t)
        sin, cos = features[:, 2:].split(self.settings.fourier_features, dim=1)[:2]
        tangents = features.new_zeros(_DIMENSIONS, *features.shape)
        for k, frequencies in enumerate(2 * math.pi * self.frequencies):
            tangents[k, :, k] = 1
            slopes = torch.cat((frequencies * cos, -frequencies * sin), dim=1)
            tangents[k, :, 2 : 2 + slopes.shape[1]] = slopes
        h, dh = _affine(features, self.read_in), _linear(tangents, self.read_in)
        for block in self.blocks:
            s, ds = silu(h), torch.ops.aten.silu_backward(dh, h)
            h, dh = _affine(s, block).add_(h), _linear(ds, block).add_(dh)
        s, ds = silu(h), torch.ops.aten.silu_backward(dh, h)
        return _affine(s, self.read_out), _linear(ds, self.read_out).permute(1, 2, 0)

    def features(
        self,
        x_t: Float[Tensor, "*batch 2"],
        t: Float[Tensor, "*#batch"],
        label: Int64[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch features"]:
        """Compute the features of point, time and label, f, which depend on no weight."""
        phase = 2 * math.pi * x_t @ self.frequencies
        time_phase = sqrt(t / self.T)[..., None] * self.time_frequencies
        time = torch.cat((time_phase.sin(), time_phase.cos()), dim=-1)
        time = time.expand(*x_t.shape[:-1], -1)
        parts = [x_t, phase.sin(), phase.cos(), time]
        if self.classes:
            if label is None:
                each = torch.tensor(self.labels, device=x_t.device)
                label = each.repeat_interleave(len(x_t) // len(each))
            parts.append(one_hot(label, self.classes + 1).to(x_t.dtype))
        return torch.cat(parts, dim=-1)

    @override
    def loss_gradient(self, batch: int) -> LossGradient | None:
        on_cpu = self.frequencies.device.type == "cpu"
        return MLPGradient(self, batch) if on_cpu else None


def _affine(x: Float[Tensor, "*batch inputs"], layer: nn.Module) -> Float[Tensor, "*batch outputs"]:
    """Evaluate a layer."""
    if torch.is_grad_enabled():
        y: Tensor = layer(x)
        return y
    weight, bias = layer.parameters()
    return matmul(x, weight.T).add_(bias)


def _linear(x: Float[Tensor, "*batch inputs"], layer: nn.Module) -> Float[Tensor, "*batch outputs"]:
    """Evaluate a layer without its bias."""
    weight, _ = layer.parameters()
    return matmul(x, weight.T)
