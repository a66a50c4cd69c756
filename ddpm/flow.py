"""The probability flow: the deterministic way between data and noise, solved to a tolerance.

Along the angle phi with sigma = sin(phi) and sqrt(alpha_bar) = cos(phi) it is

    d x / d phi = v(x, t(phi))

and has the same p_t as the diffusion if v is exact. Nothing in this form is singular at t = 0,
where phi = 0 and v = eps.

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

from ddpm import ode
from ddpm.process import Denoiser
from ddpm.runtime import in_parallel
from ddpm.schedules import Schedule

Points = Float64[Tensor, "n d"]
State = Float64[Tensor, "n _"]

# Points that are carried along together, and take the same steps.
_BLOCK = 500


def first_time(denoiser: Denoiser, noise: float) -> int:
    """The earliest time that the flow reaches with a density: 0, or else 1.

    Args:
        denoiser: Where its prediction is not regular at 0 (x0), neither is its flow.
        noise: Of the data around their curve: without it they have no density at 0.
    """
    return 0 if noise > 0 and denoiser.regular else 1


def carry(
    denoiser: Denoiser,
    rate: Callable[[Points, float], State],
    state: State,
    start: float,
    end: float,
    *,
    tolerance: float,
    name: str,
) -> State:
    """Carry a state of many points along the flow, in blocks that share the cores.

    Args:
        denoiser: Supplies the schedule.
        rate: d state / d phi at (state, t): for the plain flow, the denoiser's velocity.
        state: One row for each point, model units.
        start: Time in [0, T] of the state.
        end: Time in [0, T] to go to, on either side.
        tolerance: Of the solver; see `ode.solve`.
        name: Of the progress bar.

    Returns:
        The state at the end.

    Raises:
        UserError: If the flow cannot be solved.
    """
    schedule = denoiser.schedule
    blocks = state.split(_BLOCK)
    with tqdm(total=len(blocks), desc=name, unit="block", disable=None) as bar:

        def one(block: State) -> State:
            solution = ode.solve(
                lambda phi, y: rate(y, time_at(schedule, phi)),
                block,
                angle(schedule, start),
                angle(schedule, end),
                tolerance=tolerance,
            )
            bar.update()
            return solution.y

        return torch.cat(in_parallel(one, blocks))


def flow_samples(denoiser: Denoiser, x_T: Points, *, noise: float, tolerance: float) -> Points:
    """Samples by the converged flow from x_T to data: what is wrong with them is the denoiser's.

    Where the flow does not reach t = 0 (see `first_time`) its last step goes to the denoised point.

    Args:
        denoiser: A network's or the exact truth's.
        x_T: Where to start, N(0, I).
        noise: Of the data around their curve.
        tolerance: Of the solver; see `ode.solve`.

    Returns:
        Points at t = 0, model units.
    """
    end = first_time(denoiser, noise)

    @torch.no_grad()
    def rate(x: Points, t: float) -> Points:
        return denoiser.velocity(x, t)

    x = carry(denoiser, rate, x_T, denoiser.schedule.T, end, tolerance=tolerance, name="flow")
    with torch.no_grad():
        return denoiser(x, end)[0] if end > 0 else x


def angle(schedule: Schedule, t: float) -> float:
    """The angle with sigma_t = sin(phi) and sqrt(alpha_bar_t) = cos(phi), in [0, pi / 2]."""
    a, sigma = schedule.levels(t)
    return math.atan2(sigma, a)


def time_at(schedule: Schedule, phi: float) -> float:
    """The time of an angle: the inverse of `angle`."""
    # Each form of log cos^2 keeps its digits at one end.
    small = phi < 1
    log_alpha_bar = math.log1p(-(math.sin(phi) ** 2)) if small else 2 * math.log(math.cos(phi))
    return schedule.time_of(log_alpha_bar)
