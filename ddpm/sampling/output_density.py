"""The exact density of a deterministic sampler's output.

A deterministic sampler maps x_T to x_0, whatever the number of its steps. By change of variables,

    log q(x_0) = log N(x_T; 0, I) - log |det d x_0 / d x_T|

The Jacobian is taken through all steps, in float64: see `ddpm.diffusion.tangents`. Where the map
folds, x_0 has several preimages and this is a lower bound of log q(x_0). A negative determinant
means that a point lies on a fold's reversed sheet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import in_parallel, log
from ddpm.core.errors import UserError
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.tangents import identity_like, stack, unstack, with_tangents
from ddpm.flow.likelihood import flow_with_log_density, log_normal
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.one_step import ODE
from ddpm.sampling.sampler import Sampler

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]

# Points in one task of a thread.
_BLOCK = 2500
# Tolerance of the flow's solver, relative to that of `ODE`: densities are less exact than points.
_FINER = 0.1


class OutputDensity(NamedTuple):
    """Output of a sampler, and its density.

    Attributes:
        x: Points x_0, model units.
        log_density: log q(x_0) in nats, with respect to model units; where the map folds, a lower
            bound.
        determinant: Determinant of d x_0 / d x_T; negative on the reversed sheet of a fold.
    """

    x: Points
    log_density: PerPoint
    determinant: PerPoint


def output_density(
    sampler: Sampler, denoiser: Denoiser, x_T: Points, times: Sequence[float]
) -> OutputDensity:
    """Run a deterministic sampler from x_T, and compute the density of its output there.

    Args:
        sampler: A deterministic sampler, as returned by its `prepared`.
        denoiser: Denoiser of a network, or the exact denoiser. It is evaluated in float64.
        x_T: Points at the first time, drawn from N(0, I).
        times: Decreasing times from which the steps start.

    Returns:
        The output, its log density and the determinant of the map, for each point. A map onto a
        curve or a point has no density: its determinant is 0 and log q infinite.

    Raises:
        UserError: If the sampler adds noise: its output has no such density.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> spiral, scaling = ddpm.Spiral(noise=0.02), ddpm.Scaling(torch.zeros(2).double(), 0.6)
        >>> exact = ddpm.ExactDistribution.from_dataset(spiral, scaling, schedule)
        >>> x_T = torch.randn(500, 2, dtype=torch.float64, generator=ddpm.stream(0, "x_T"))
        >>> times = ddpm.sampling_times("log_snr", schedule, 20)
        >>> output = output_density(ddpm.UniPC(), exact.denoiser, x_T, times)
        >>> log_ratio = output.log_density - exact.log_density(output.x, 0)
        >>> print(f"KL(sampler || truth) = {log_ratio.mean():.2f} nats")
        KL(sampler || truth) = 0.01 nats
    """
    if not sampler.deterministic:
        raise UserError(
            f"{type(sampler).__name__} adds noise, so that no single x_T leads to its output and"
            " the output density is not known; choose a deterministic sampler"
        )
    denoiser = denoiser.double()
    if isinstance(sampler, ODE):
        return _flow_density(denoiser, x_T, times, sampler.tolerance)
    carrying, generator = with_tangents(denoiser), torch.Generator()

    def run(block: Points) -> tuple[Points, PerPoint]:
        start = stack(block, identity_like(block))
        x, jacobian = unstack(run_sampler(sampler, carrying, start, times, generator=generator).x)
        return x, _determinant(jacobian)

    blocks = in_parallel(run, x_T.split(_BLOCK), x_T.device)
    x, determinant = (torch.cat(part) for part in zip(*blocks, strict=True))
    return OutputDensity(x, log_normal(x_T) - log(determinant.abs()), determinant)


def _flow_density(
    denoiser: Denoiser, x_T: Points, times: Sequence[float], tolerance: float
) -> OutputDensity:
    """Output of `ODE`: the likelihood of the flow."""
    # As in `ODE.step`.
    end = 0 if denoiser.regular else min(1, times[-1])
    x, log_density = flow_with_log_density(
        denoiser, x_T, times[0], end, tolerance=_FINER * tolerance
    )
    determinant = (log_normal(x_T) - log_density).exp()
    if end > 0:
        x0_hat, _ = with_tangents(denoiser)(stack(x, identity_like(x)), end)
        x, jacobian = unstack(x0_hat)
        last = _determinant(jacobian)
        log_density, determinant = log_density - log(last.abs()), determinant * last
    return OutputDensity(x, log_density, determinant)


def _determinant(matrices: Float64[Tensor, "n 2 2"]) -> PerPoint:
    (a, b), (c, d) = matrices.permute(1, 2, 0)
    determinants: Tensor = a * d - b * c
    return determinants
