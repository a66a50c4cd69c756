"""The exact likelihood of a model: the density of a point under its probability flow.

By the instantaneous change of variables along the flow d x / d phi = v,

    log p_t(x_t) = log N(x_T; 0, I) + integral from phi_t to phi_T of div v d phi

The divergence is computed exactly, from the whole Jacobian, and not estimated from random
projections.

References:
    Song et al. 2021, appendix D.2, https://arxiv.org/abs/2011.13456
    Chen et al. 2018 (instantaneous change of variables), https://arxiv.org/abs/1806.07366
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.tangents import identity_like, stack, unstack, with_tangents
from ddpm.flow.probability_flow import integrate

Points = Float64[Tensor, "n d"]
PerPoint = Float64[Tensor, " n"]


def log_likelihood(denoiser: Denoiser, x_t: Points, t: float, *, tolerance: float) -> PerPoint:
    """Compute the log density of points at time t under a model.

    Args:
        denoiser: Denoiser of a network, or the exact denoiser.
        x_t: Points at time t, model units.
        t: Time in [0, T), not before `ddpm.flow.probability_flow.first_time`.
        tolerance: Tolerance of the solver; see `ddpm.flow.ode.solve`.

    Returns:
        Log densities in nats, with respect to model units. Add `Scaling.log_jacobian` for data
        units.

    Raises:
        UserError: If the flow cannot be solved.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> spiral, scaling = ddpm.Spiral(noise=0.2), ddpm.Scaling(torch.zeros(2).double(), 0.6)
        >>> exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)
        >>> x = exact.sample(5, 0, generator=torch.Generator().manual_seed(0))
        >>> error = log_likelihood(exact.denoiser, x, 0, tolerance=1e-4) - exact.log_density(x, 0)
        >>> bool((error.abs() < 0.01).all())
        True
    """
    x_T, log_volume = _transport(
        denoiser, x_t, t, denoiser.schedule.T, tolerance=tolerance, name="likelihood"
    )
    return log_volume + log_normal(x_T)


def flow_with_log_density(
    denoiser: Denoiser, x_T: Points, start: float, end: float = 0, *, tolerance: float
) -> tuple[Points, PerPoint]:
    """Solve the flow from noise to data, and compute the density of its output there.

    Args:
        denoiser: Denoiser of a network, or the exact denoiser.
        x_T: Starting points, drawn from N(0, I).
        start: Time in (0, T] of the starting points; T, unless a sampler starts later.
        end: Time in [0, T) of the output, not before `ddpm.flow.probability_flow.first_time`.
        tolerance: Tolerance of the solver; see `ddpm.flow.ode.solve`.

    Returns:
        Points at `end`, and their log densities in nats, both in model units. From T, the densities
        are those that `log_likelihood` gives.

    Raises:
        UserError: If the flow cannot be solved.
    """
    x, log_volume = _transport(denoiser, x_T, start, end, tolerance=tolerance, name="flow")
    return x, log_normal(x_T) - log_volume


def log_normal(x: Points) -> PerPoint:
    """Log density of N(0, I) in nats."""
    return -(x.square().sum(1) + x.shape[1] * math.log(2 * math.pi)) / 2


def _transport(
    denoiser: Denoiser, x: Points, start: float, end: float, *, tolerance: float, name: str
) -> tuple[Points, PerPoint]:
    """Move points along the flow; returns them, and log |det| of the map from start to end."""
    d, state = x.shape[1], torch.nn.functional.pad(x, (0, 1))
    for first, last, carrying in with_tangents(denoiser).segments(start, end):

        @torch.no_grad()
        def rate(
            state: Float64[Tensor, "n _"], time: float, carrying: Denoiser = carrying
        ) -> Float64[Tensor, "n _"]:
            points = state[:, :d]
            v, jacobian = unstack(carrying.velocity(stack(points, identity_like(points)), time))
            divergence = jacobian.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            return torch.cat((v, divergence), dim=1)

        state = integrate(carrying, rate, state, first, last, tolerance=tolerance, name=name)
    return state[:, :d], state[:, d]
