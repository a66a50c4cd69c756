"""Where a sampler stops on its way from T to 0.

A spacing gives real times that fall from at most T; the last move goes from the last of them to 0.

References:
    Lin et al. 2023, table 2 (leading, linspace, trailing), https://arxiv.org/abs/2305.08891
    Song et al. 2021, appendix D.3 (quadratic), https://arxiv.org/abs/2010.02502
    Lu et al. 2022, section 4.1 (log SNR), https://arxiv.org/abs/2206.00927
    Karras et al. 2022, eq. 5, https://arxiv.org/abs/2206.00364
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ddpm.errors import UserError
from ddpm.params import PARAMS_FILE, choose
from ddpm.schedules import Schedule

_RHO = 7
# Spacings in noise levels end at the lowest that the model was trained on.
_LAST = 1.0


class Spacing(NamedTuple):
    """How to space times.

    Attributes:
        times: A schedule and a number of steps to as many times, falling.
        uses_log_snr: Whether it works in log SNR, which must then be finite at T.
    """

    times: Callable[[Schedule, int], list[float]]
    uses_log_snr: bool = False


def _trailing(schedule: Schedule, steps: int) -> list[float]:
    """Equal strides counted down from T."""
    return [schedule.T * k / steps for k in range(steps, 0, -1)]


def _leading(schedule: Schedule, steps: int) -> list[float]:
    """Equal whole strides counted up from 1: the first time may lie far below T."""
    return [1.0 + (schedule.T // steps) * k for k in reversed(range(steps))]


def _linspace(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced from T to 1, both included."""
    T = schedule.T
    return [T - (T - 1) * k / max(1, steps - 1) for k in range(steps)]


def _quadratic(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in sqrt(t), down from T: more steps near the data."""
    return [schedule.T * (k / steps) ** 2 for k in range(steps, 0, -1)]


def _log_snr(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in log SNR, from T to 1."""
    first, last = (log_snr_at(schedule, t) for t in (schedule.T, _LAST))
    between = [first + (last - first) * k / max(1, steps - 1) for k in range(1, steps)]
    return [float(schedule.T), *(time_of_log_snr(schedule, value) for value in between)]


def _karras(schedule: Schedule, steps: int) -> list[float]:
    """Equally spaced in sigma_ve^(1/7), from T to 1, with sigma_ve = sigma / sqrt(alpha_bar)."""
    first, last = (math.exp(-log_snr_at(schedule, t) / (2 * _RHO)) for t in (schedule.T, _LAST))
    between = [first + (last - first) * k / max(1, steps - 1) for k in range(1, steps)]
    levels = [time_of_log_snr(schedule, -2 * _RHO * math.log(value)) for value in between]
    return [float(schedule.T), *levels]


def log_snr_at(schedule: Schedule, t: float) -> float:
    """log(alpha_bar / (1 - alpha_bar)) at a real time in (0, T]."""
    log_alpha_bar = schedule.log_alpha_bar_at(t)
    return log_alpha_bar - math.log(-math.expm1(log_alpha_bar))


def time_of_log_snr(schedule: Schedule, log_snr: float) -> float:
    """The time at which the log SNR has a value: the inverse of `log_snr_at`."""
    # log sigmoid(x), without overflow on either side.
    return schedule.time_of(min(0.0, log_snr) - math.log1p(math.exp(-abs(log_snr))))


def moments(
    spacing: str,
    schedule: Schedule,
    steps: int,
    optimised: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> list[float]:
    """Times at which a sampler stops.

    Args:
        spacing: Name in SPACINGS, or of an optimised one.
        schedule: What the times belong to.
        steps: How many of them, 1 ... T.
        optimised: Times by the name of the spacing and the number of steps, from stage `optimise`.

    Returns:
        Times in (0, T], falling.

    Raises:
        UserError: If the spacing is unknown, was not optimised for this number of steps, or has no
            meaning on a schedule that ends without any signal.
        ValueError: If steps is not in 1 ... T.
    """
    if not 1 <= steps <= schedule.T:
        raise ValueError(f"steps is {steps} but should be in 1 ... {schedule.T}")
    if spacing in OPTIMISED:
        by_steps = (optimised or {}).get(spacing, {})
        if str(steps) not in by_steps:
            allowed = ", ".join(sorted(by_steps, key=int)) or "nothing yet"
            raise UserError(
                f"sample.steps is {steps} but {spacing} has been optimised for {allowed}; change"
                f" sample.steps, or add {steps} to optimise.steps in {PARAMS_FILE}"
            )
        times = list(by_steps[str(steps)])
        if times[0] > schedule.T:
            raise UserError(
                f"{spacing} for {steps} steps starts at t = {times[0]:g} but the schedule has"
                f" T = {schedule.T}; optimise it again with `dvc repro optimise`"
            )
        return times
    chosen = SPACINGS[choose_spacing("sample.spacing", spacing)]
    if chosen.uses_log_snr:
        refuse_no_signal(schedule, f"spacing {spacing}")
    return chosen.times(schedule, steps)


def choose_spacing(parameter: str, name: str) -> str:
    """The name, if it is one of SPACINGS or OPTIMISED.

    Raises:
        UserError: If it is not.
    """
    return choose(parameter, name, {one: one for one in (*SPACINGS, *OPTIMISED)})


def has_signal_at_end(schedule: Schedule) -> bool:
    """Whether alpha_bar_T is above 0, and the log SNR finite at T."""
    return math.isfinite(schedule.log_alpha_bar_at(schedule.T))


def refuse_no_signal(schedule: Schedule, what: str) -> None:
    """Stop what works in log SNR on a schedule whose log SNR ends at minus infinity.

    Raises:
        UserError: If alpha_bar_T is 0.
    """
    if not has_signal_at_end(schedule):
        raise UserError(
            f"{what} works in log SNR but with diffusion.zero_terminal_snr it is infinite at T;"
            f" change one of the two in {PARAMS_FILE}"
        )


SPACINGS: dict[str, Spacing] = {
    "trailing": Spacing(_trailing),
    "leading": Spacing(_leading),
    "linspace": Spacing(_linspace),
    "quadratic": Spacing(_quadratic),
    "log_snr": Spacing(_log_snr, uses_log_snr=True),
    "karras": Spacing(_karras, uses_log_snr=True),
}
# Made by stage `optimise`, with the exact denoiser and with the model in its place.
OPTIMISED = ("optimised_truth", "optimised_model")
