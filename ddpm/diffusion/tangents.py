"""Derivatives of points with respect to where they started, carried along with them.

Every deterministic step here, of a sampler or of the flow's solver, is a linear combination of
points and predictions. The derivative of a point in a direction, its *tangent*, takes the same step
if the denoiser maps it by its Jacobian. So tangents are stacked below the points, and samplers and
solvers need not know about them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.core.gradient import HasJacobian
from ddpm.diffusion.denoiser import Denoiser

Points = Float[Tensor, "n d"]
Jacobians = Float[Tensor, "n d d"]
# First the n points, then their n tangents in each of the d directions.
Stacked = Float[Tensor, "rows d"]


def stack(x: Points, tangents: Jacobians) -> Stacked:
    """Stack points and their tangents, the columns of a matrix for each point."""
    return torch.cat((x[None], tangents.permute(2, 0, 1))).flatten(0, 1)


def unstack(stacked: Stacked) -> tuple[Points, Jacobians]:
    """Separate what `stack` has put together."""
    d = stacked.shape[1]
    x, *tangents = stacked.view(1 + d, -1, d)
    return x, torch.stack(tangents, dim=2)


def identity_like(x: Points) -> Jacobians:
    """The tangents of points that have not moved yet."""
    n, d = x.shape
    return torch.eye(d, dtype=x.dtype, device=x.device).expand(n, d, d)


def with_tangents(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser of stacked points and tangents."""

    def function(stacked: Stacked, t: Tensor) -> Stacked:
        x, tangents = unstack(stacked)
        prediction, jacobian = prediction_with_jacobian(denoiser.function, x, t)
        return stack(prediction, jacobian @ tangents)

    pieces = tuple(
        piece._replace(denoiser=with_tangents(piece.denoiser)) for piece in denoiser.pieces
    )
    return replace(denoiser, function=function, pieces=pieces)


def prediction_with_jacobian(
    function: Callable[[Points, Tensor], Points], x_t: Points, t: Float[Tensor, " #n"]
) -> tuple[Points, Jacobians]:
    """Evaluate a network or an exact denoiser, and its derivative with respect to x_t.

    Args:
        function: Maps each point independently of the others. If it has no code of its own for
            the derivative, autograd computes it.
        x_t: Points.
        t: Time of all points.
    """
    if isinstance(function, HasJacobian):
        return function.with_jacobian(x_t, t)
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        y = function(x, t)
        rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0] for part in y.T]
    return y.detach(), torch.stack(rows, dim=1)
