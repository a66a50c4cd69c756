"""Loss and gradient of the residual MLP, written out for small batches on the CPU.

At 64 x 512, half of a training step through autograd is spent between the operations, and MKL's
reproducible matrix product is three times slower than that of NumPy's OpenBLAS. This module does
the same arithmetic with NumPy's matrix product and with arrays that are allocated once.

    s_k = silu(h_k),  h_{k+1} = h_k + W_k s_k + b_k,  out = W s + b,  L = mean (out - target)^2

    dL/dW = (dL/dout)^T s,  dL/dh_k = dL/dh_{k+1} + silu'(h_k) (W_k^T dL/dh_{k+1})

It agrees with autograd to rounding, as tests/test_mlp_gradient.py shows.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from ddpm.networks.mlp import ResidualMLP

Activations = Float[Tensor, "batch width"]
Layer = tuple[Tensor, Tensor, Tensor, Tensor]


class MLPGradient:
    """Computes the loss of one batch, and its gradient in place of the gradients of the weights.

    Args:
        network: The network, on the CPU. Its weights may change in place, but not be replaced.
        batch: Number of points in a batch.
    """

    def __init__(self, network: "ResidualMLP", batch: int) -> None:
        self.network = network
        layers = (network.read_in, *network.blocks, network.read_out)
        self.read_in, *self.blocks, self.read_out = (_with_gradients(layer) for layer in layers)
        like, width = self.read_in[0], network.settings.width
        depth = len(self.blocks) + 1
        self.h, self.s = ([like.new_empty(batch, width) for _ in range(depth)] for _ in range(2))
        self.dh, self.ds = (like.new_empty(batch, width) for _ in range(2))
        self.error = like.new_empty(batch, 2)

    @torch.no_grad()
    def inputs(
        self,
        x_t: Float[Tensor, "*chunk batch 2"],
        t: Float[Tensor, "*chunk batch"],
        label: Int64[Tensor, "*chunk batch"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute the features, which depend on no weight, for one or many batches."""
        return (self.network.features(x_t, t, label),)

    @torch.no_grad()
    @np.errstate(over="ignore", invalid="ignore")  # training that diverges is reported by its loop
    def __call__(
        self, inputs: tuple[Tensor, ...], target: Float[Tensor, "batch 2"]
    ) -> Float[Tensor, ""]:
        """Compute the loss, and its gradient with respect to every weight."""
        (features,) = inputs
        h, s = self.h, self.s
        _affine(features, self.read_in, out=h[0])
        for k, block in enumerate(self.blocks):
            _silu(h[k], out=s[k])
            _affine(s[k], block, out=h[k + 1]).add_(h[k])
        _silu(h[-1], out=s[-1])
        error = _affine(s[-1], self.read_out, out=self.error).sub_(target)
        loss = error.square().mean()

        _backward(error.mul_(2 / error.numel()), s[-1], self.read_out, out=self.ds)
        _silu_backward(self.ds, h[-1], grad_input=self.dh)
        for k in reversed(range(len(self.blocks))):
            _backward(self.dh, s[k], self.blocks[k], out=self.ds)
            self.dh.add_(_silu_backward(self.ds, h[k], grad_input=self.ds))
        _backward(self.dh, features, self.read_in)
        return loss


_silu = torch.ops.aten.silu.out
_silu_backward = torch.ops.aten.silu_backward.grad_input


def _with_gradients(layer: torch.nn.Module) -> Layer:
    """Weight, bias, and their gradients, which are allocated if they are missing."""
    parameters = list(layer.parameters())
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    (weight, bias), (d_weight, d_bias) = zip(*((p.data, p.grad) for p in parameters), strict=True)
    return weight, bias, d_weight, d_bias


def _affine(x: Tensor, layer: Layer, out: Activations) -> Activations:
    """Compute x W^T + b."""
    weight, bias, *_ = layer
    return _matmul(x, weight.T, out).add_(bias)


def _backward(d_out: Tensor, x: Tensor, layer: Layer, out: Tensor | None = None) -> None:
    """Store the gradients of a layer, from that of its output, and that of its input in `out`."""
    weight, _, d_weight, d_bias = layer
    _matmul(d_out.T, x, d_weight)
    torch.sum(d_out, 0, out=d_bias)
    if out is not None:
        _matmul(d_out, weight, out)


def _matmul(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    return out
