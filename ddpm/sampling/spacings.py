"""Spacings by name: the times at which a sampler evaluates the denoiser.

A spacing gives decreasing real times in (0, T]. The last step goes from the last of them to 0. To
add a spacing, write a function of a schedule and a number of steps, and enter it in SPACINGS at the
end.

References:
    Lin et al. 2023, table 2 (leading, linspace, trailing), https://arxiv.org/abs/2305.08891
    Song et al. 2021, appendix D.3 (quadratic), https://arxiv.org/abs/2010.02502
    Sun, Poor & Zhang 2026 (tangent), https://arxiv.org/abs/2601.13602
    Lu et al. 2022, section 4.1 (log SNR), https://arxiv.org/abs/2206.00927
    Karras et al. 2022, eq. 5, https://arxiv.org/abs/2206.00364
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ddpm.core.errors import UserError
from ddpm.core.settings import PARAMS_FILE, choose
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import angle, time_at

# Exponent of Karras et al. 2022.
_RHO = 7
# Spacings in terms of the noise level end at the lowest level that the model is trained on.
_LAST_TIME = 1.0

# Times by the name of an optimised spacing and the number of steps, which is text as in JSON.
OptimisedTimes = Mapping[str, Mapping[str, Sequence[float]]]


class Spacing(NamedTuple):
    """A rule that places the times.

    Attributes:
        times: Maps (schedule, steps) to that many decreasing times.
        uses_log_snr: Whether it works in log SNR, which must then be finite at T.
    """

    times: Callable[[Schedule, int], list[float]]
    uses_log_snr: bool = False


def _trailing(schedule: Schedule, steps: int) -> list[float]:
    """Equal strides, counted down from T."""
    return [schedule.T * k / steps for k in range(steps, 0, -1)]


def _leading(schedule: Schedule, steps: int) -> list[float]:
    """Equal whole strides, counted up from 1, so that the first time may lie far below T."""
    return [1.0 + (schedule.T // steps) * k for k in reversed(range(steps))]


def _linspace(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced from T to 1, both included."""
    T = schedule.T
    return [T - (T - 1) * k / max(1, steps - 1) for k in range(steps)]


def _quadratic(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in sqrt(t), down from T: more steps near the data."""
    return [schedule.T * (k / steps) ** 2 for k in range(steps, 0, -1)]


def _tangent(schedule: Schedule, steps: int) -> list[float]:
    """Equal strides in the angle phi with sigma_ve = tan(phi), counted down from T."""
    last = angle(schedule, schedule.T)
    return [
        float(schedule.T),
        *(time_at(schedule, last * k / steps) for k in range(steps - 1, 0, -1)),
    ]


def _log_snr(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in log SNR, from T to 1."""
    first, last = (schedule.log_snr_at(t) for t in (schedule.T, _LAST_TIME))
    log_snrs = [first + (last - first) * k / max(1, steps - 1) for k in range(1, steps)]
    return [float(schedule.T), *(schedule.time_of_log_snr(log_snr) for log_snr in log_snrs)]


def _karras(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in sigma_ve^(1/7), from T to 1, with sigma_ve = sigma / sqrt(alpha_bar)."""
    first, last = (math.exp(-schedule.log_snr_at(t) / (2 * _RHO)) for t in (schedule.T, _LAST_TIME))
    roots = [first + (last - first) * k / max(1, steps - 1) for k in range(1, steps)]
    times = [schedule.time_of_log_snr(-2 * _RHO * math.log(root)) for root in roots]
    return [float(schedule.T), *times]


def sampling_times(
    spacing: str, schedule: Schedule, steps: int, optimised: OptimisedTimes | None = None
) -> list[float]:
    """Compute the times from which the steps of a sampler start.

    Args:
        spacing: Name in SPACINGS or OPTIMISED.
        schedule: Noise schedule.
        steps: Number of times, in 1 ... T.
        optimised: Times by name and number of steps: those of stage `optimise_spacings`, or others.

    Returns:
        Decreasing times in (0, T].

    Raises:
        UserError: If the spacing is unknown, was not optimised for this number of steps or this T,
            or works in log SNR although that is infinite at T.
        ValueError: If `steps` is not in 1 ... T.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> sampling_times("trailing", schedule, 4)
        [1000.0, 750.0, 500.0, 250.0]
    """
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps is {steps} but should be in 1 ... {schedule.T}")
    if spacing in OPTIMISED or spacing in (optimised or {}):
        times_by_steps = (optimised or {}).get(spacing, {})
        if str(steps) not in times_by_steps:
            allowed = ", ".join(sorted(times_by_steps, key=int)) or "nothing yet"
            raise UserError(
                f"sample.steps is {steps} but {spacing} has been optimised for {allowed}; change"
                f" sample.steps, or add {steps} to optimise_spacings.steps in {PARAMS_FILE}"
            )
        times = list(times_by_steps[str(steps)])
        if times[0] > schedule.T:
            raise UserError(
                f"{spacing} for {steps} steps starts at t = {times[0]:g} but the schedule has"
                f" T = {schedule.T}; optimise it again with `dvc repro optimise_spacings`"
            )
        return times
    choose_spacing("sample.spacing", spacing)
    if SPACINGS[spacing].uses_log_snr:
        require_terminal_signal(schedule, f"spacing {spacing}")
    return SPACINGS[spacing].times(schedule, steps)


def choose_spacing(parameter: str, name: str) -> str:
    """Return the name of a spacing, which must be in SPACINGS or OPTIMISED.

    Args:
        parameter: The parameter that holds the name, for the message.
        name: Its value.

    Raises:
        UserError: If there is no such spacing.
    """
    return choose(parameter, name, {known: known for known in (*SPACINGS, *OPTIMISED)})


def require_terminal_signal(schedule: Schedule, dependent: str) -> None:
    """Refuse a schedule whose log SNR is infinite at T, for a method that works in log SNR.

    Args:
        schedule: Noise schedule.
        dependent: The sampler or spacing that needs the log SNR, for the message.

    Raises:
        UserError: If alpha_bar_T is 0.
    """
    if not schedule.has_terminal_signal:
        raise UserError(
            f"{dependent} works in log SNR but with diffusion.zero_terminal_snr it is infinite at"
            f" T; change one of the two in {PARAMS_FILE}"
        )


SPACINGS: dict[str, Spacing] = {
    "trailing": Spacing(_trailing),
    "leading": Spacing(_leading),
    "linspace": Spacing(_linspace),
    "quadratic": Spacing(_quadratic),
    "tangent": Spacing(_tangent),
    "log_snr": Spacing(_log_snr, uses_log_snr=True),
    "karras": Spacing(_karras, uses_log_snr=True),
}
# Computed by stage `optimise_spacings`, for the exact denoiser and for the network.
OPTIMISED = ("optimised_truth", "optimised_model")
