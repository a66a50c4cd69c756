"""The probability flow: a deterministic map between data and noise.

In terms of the angle phi with sigma = sin(phi) and sqrt(alpha_bar) = cos(phi) it is

    d x / d phi = v(x, t(phi))

If v is exact, the flow has the same p_t as the diffusion. In this form nothing is singular at
t = 0, where phi = 0 and v = eps.

References:
    Song et al. 2021, section 4.3, https://arxiv.org/abs/2011.13456
    Salimans & Ho 2022, appendix D (the angle), https://arxiv.org/abs/2202.00512
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.ode import solve

Points = Float64[Tensor, "n d"]
State = Float64[Tensor, "n _"]

# Number of points that are integrated together, with the same steps.
_BLOCK = 2500


def first_time(denoiser: Denoiser, noise: float) -> int:
    """Earliest time at which the flow has a density: 0 if possible, otherwise 1.

    Args:
        denoiser: Its flow reaches t = 0 only if the denoiser is regular there.
        noise: Standard deviation of the data around their curve. Without noise the data have no
            density at t = 0.
    """
    return 0 if noise > 0 and denoiser.regular else 1


def integrate(
    denoiser: Denoiser,
    rate: Callable[[Points, float], State],
    state: State,
    start: float,
    end: float,
    *,
    tolerance: float,
    name: str,
) -> State:
    """Integrate states of many points along the flow, in blocks that are shared among threads.

    Args:
        denoiser: Supplies the schedule.
        rate: Maps (state, t) to d state / d phi. To move points along the flow, pass the velocity
            of the denoiser.
        state: State at `start`, one row per point, model units.
        start: Time in [0, T].
        end: Time in [0, T] at which the state is wanted, before or after `start`.
        tolerance: Tolerance of the solver; see `ddpm.flow.ode.solve`.
        name: Label of the progress bar.

    Returns:
        The state at `end`.

    Raises:
        UserError: If the flow cannot be solved.
    """
    schedule = denoiser.schedule
    blocks = state.split(_BLOCK)
    with tqdm(total=len(blocks), desc=name, unit="block", disable=None) as bar:

        def integrate_block(block: State) -> State:
            solution = solve(
                lambda phi, y: rate(y, time_at(schedule, phi)),
                block,
                angle(schedule, start),
                angle(schedule, end),
                tolerance=tolerance,
            )
            bar.update()
            return solution.y

        return torch.cat(in_parallel(integrate_block, blocks))


def flow_samples(denoiser: Denoiser, x_T: Points, *, noise: float, tolerance: float) -> Points:
    """Solve the flow from x_T to data; up to the tolerance, all error is that of the denoiser.

    If the flow does not reach t = 0 (see `first_time`), it stops at t = 1 and returns x0_hat there.

    Args:
        denoiser: Denoiser of a network, or the exact denoiser.
        x_T: Starting points, drawn from N(0, I).
        noise: Standard deviation of the data around their curve.
        tolerance: Tolerance of the solver; see `ddpm.flow.ode.solve`.

    Returns:
        Points at t = 0, model units.
    """
    end = first_time(denoiser, noise)

    x = x_T
    for start, stop, piece in denoiser.segments(denoiser.schedule.T, end):

        @torch.no_grad()
        def rate(x: Points, t: float, piece: Denoiser = piece) -> Points:
            return piece.velocity(x, t)

        x = integrate(piece, rate, x, start, stop, tolerance=tolerance, name="flow")
    with torch.no_grad():
        return denoiser(x, end)[0] if end > 0 else x


def angle(schedule: Schedule, t: float) -> float:
    """Angle phi in [0, pi / 2] with sigma_t = sin(phi) and sqrt(alpha_bar_t) = cos(phi)."""
    a, sigma = schedule.levels(t)
    return math.atan2(sigma, a)


def time_at(schedule: Schedule, phi: float) -> float:
    """Time at which the angle is phi; the inverse of `angle`."""
    # alpha_bar = cos(phi)^2. Each of these forms of its logarithm is accurate at one end.
    near_data = phi < 1
    log_alpha_bar = math.log1p(-(math.sin(phi) ** 2)) if near_data else 2 * math.log(math.cos(phi))
    return schedule.time_of(log_alpha_bar)
