"""The exact likelihood of a model: the density that its probability flow gives a point.

The flow d x / d phi = v (see `flow`) carries density with it:

    log p_t(x_t) = log N(x_T; 0, I) + integral from phi_t to phi_T of div v d phi

The divergence is exact, one gradient for each coordinate, not an estimate by random projections.

References:
    Song et al. 2021, appendix D.2, https://arxiv.org/abs/2011.13456
    Chen et al. 2018 (instantaneous change of variables), https://arxiv.org/abs/1806.07366
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.flow import carry
from ddpm.process import Denoiser

Points = Float64[Tensor, "n d"]
PerPoint = Float64[Tensor, " n"]


def log_likelihood(denoiser: Denoiser, x_t: Points, t: float, *, tolerance: float) -> PerPoint:
    """Log density that the model gives to points at time t.

    Args:
        denoiser: A network's or the exact truth's.
        x_t: Points, model units.
        t: Their time, in [0, T); see `flow.first_time`.
        tolerance: Of the solver; see `ode.solve`.

    Returns:
        Nats, with respect to model units: `Scaling.log_jacobian` more in data units.

    Raises:
        UserError: If the flow cannot be solved.
    """
    d = x_t.shape[1]

    def rate(state: Float64[Tensor, "n _"], time: float) -> Float64[Tensor, "n _"]:
        v, divergence = _with_divergence(lambda x: denoiser.velocity(x, time), state[:, :d])
        return torch.cat((v, divergence[:, None]), dim=1)

    end = carry(
        denoiser,
        rate,
        torch.nn.functional.pad(x_t, (0, 1)),
        t,
        denoiser.schedule.T,
        tolerance=tolerance,
        name="likelihood",
    )
    x_T, gathered = end[:, :d], end[:, d]
    return gathered - (x_T.square().sum(1) + d * math.log(2 * math.pi)) / 2


def _with_divergence(f: Callable[[Points], Points], x: Points) -> tuple[Points, PerPoint]:
    """f(x), and sum_i d f_i / d x_i at each point, for f that treats each point on its own."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = f(x)
        d = x.shape[1]
        slopes = [
            torch.autograd.grad(y[:, i].sum(), x, retain_graph=i < d - 1)[0][:, i] for i in range(d)
        ]
    return y.detach(), torch.stack(slopes).sum(0)
