"""Noise schedules by name: the variance beta_t of the noise that each step adds.

To add a schedule, write a class with its settings as fields and one method, `betas(T)`, enter it in
SCHEDULES at the end, and give its values under `schedules` in params.yaml. The betas become the
tables of a `ddpm.diffusion.schedule.Schedule`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field, model_validator
from typing_extensions import override

from ddpm.core.errors import UserError
from ddpm.core.settings import Positive, Real, Settings
from ddpm.diffusion.schedule import Betas, Schedule, Table

# The settings of schedules are given for this number of steps. With as many or more, a beta of 1 or
# above comes from the settings and not from T.
_REFERENCE_T = 1000


class ScheduleSettings(Settings, ABC):
    """A noise schedule: a class with its settings as fields, from which it computes its betas."""

    @abstractmethod
    def betas(self, T: int) -> Betas:
        """Compute beta_1 ... beta_T. `make_schedule` refuses values outside (0, 1)."""


# The variance of one step.
Beta = Annotated[Positive, Field(lt=1)]


class Linear(ScheduleSettings):
    """beta rises linearly; its ends are given for T = 1000 and scaled by 1000 / T.

    References:
        Ho et al. 2020, section 4 (1e-4 to 0.02). The schedule of the blog, `first_principles`, is
        linear as well, from 8e-6 to 9e-5, which is so little noise that x_T still shows the data.
    """

    beta_start: Beta
    beta_end: Beta

    @override
    def betas(self, T: int) -> Betas:
        return torch.linspace(self.beta_start, self.beta_end, T, dtype=torch.float64) * (1000 / T)


class ScaledLinear(ScheduleSettings):
    """sqrt(beta) rises linearly; the ends of beta are given for T = 1000 and scaled by 1000 / T.

    References:
        Rombach et al. 2022 (latent diffusion, 0.00085 to 0.012), https://arxiv.org/abs/2112.10752
    """

    beta_start: Beta
    beta_end: Beta

    @override
    def betas(self, T: int) -> Betas:
        start, end = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return torch.linspace(start, end, T, dtype=torch.float64).square() * (1000 / T)


class Cosine(ScheduleSettings):
    """alpha_bar = f(t / T) / f(0) with f(r) = cos^2(pi / 2 (r + s) / (1 + s)); beta <= beta_max.

    References:
        Nichol & Dhariwal 2021, eq. 17 (s = 0.008, beta_max = 0.999), https://arxiv.org/abs/2102.09672
    """

    s: Annotated[Real, Field(ge=0, le=1)]
    beta_max: Beta

    @override
    def betas(self, T: int) -> Betas:

        def f(r: Table) -> Table:
            return torch.cos((r + self.s) / (1 + self.s) * math.pi / 2).square()

        return _betas_of(f, T, self.beta_max)


class Sigmoid(ScheduleSettings):
    """alpha_bar falls as a sigmoid, from 1 at t = 0 towards 0 at t = T; beta <= beta_max.

    With g(r) = sigmoid((start + r (end - start)) / tau), alpha_bar is
    (g(1) - g(r)) / (g(1) - g(0)). By this formula alpha_bar_T is 0, which no step with beta < 1
    reaches: hence beta_max, as for `cosine`.

    References:
        Jabri et al. 2022, algorithm 4 (start -3, end 3, tau 1), https://arxiv.org/abs/2212.11972
    """

    start: Annotated[Real, Field(ge=-100, le=100)]
    end: Annotated[Real, Field(ge=-100, le=100)]
    tau: Annotated[Positive, Field(ge=0.01, le=100)]
    beta_max: Beta

    @model_validator(mode="after")
    def _refuse_falling(self) -> "Sigmoid":
        if self.start >= self.end:
            raise ValueError("start should be less than end")
        return self

    @override
    def betas(self, T: int) -> Betas:

        def f(r: Table) -> Table:
            g = torch.sigmoid((self.start + r * (self.end - self.start)) / self.tau)
            return g[-1] - g

        return _betas_of(f, T, self.beta_max)


def _betas_of(f: Callable[[Table], Table], T: int, beta_max: float) -> Betas:
    """Betas of alpha_bar_t = f(t / T) / f(0), clipped to beta_max."""
    alpha_bar = f(torch.arange(T + 1, dtype=torch.float64) / T)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)


def make_schedule(
    settings: ScheduleSettings, T: int, *, zero_terminal_snr: bool = False
) -> Schedule:
    """Build the tables of a schedule with T steps.

    Args:
        settings: A schedule, such as `Linear(beta_start=1e-4, beta_end=0.02)`.
        T: Number of steps.
        zero_terminal_snr: Whether to rescale the schedule so that no signal is left at T, see
            `Schedule.without_terminal_signal`.

    Raises:
        UserError: If a beta is not in (0, 1). Where a larger T helps, the message names the
            smallest.

    Example:
        >>> schedule = make_schedule(Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> round(float(schedule.sqrt_alpha_bar[-1]), 4)
        0.0064
    """
    betas = settings.betas(T)
    if bool((betas >= 1).any()):
        sizes = range(T + 1, _REFERENCE_T + 1)
        smallest = next((n for n in sizes if bool((settings.betas(n) < 1).all())), None)
        if smallest is not None:
            raise UserError(
                f"diffusion.T is {T} but the schedule {settings!r} then has a beta of"
                f" {betas.max():.4g} and each should be below 1; raise diffusion.T in params.yaml"
                f" to at least {smallest}"
            )
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise UserError(
            f"the schedule {settings!r} has betas from {betas.min():.4g} to {betas.max():.4g} at"
            f" T = {T} but each should be between 0 and 1; change its settings under schedules in"
            " params.yaml"
        )
    if zero_terminal_snr and T < 2:
        raise UserError(
            "diffusion.zero_terminal_snr is true but diffusion.T is 1; raise diffusion.T in"
            " params.yaml to at least 2"
        )
    schedule = Schedule.from_betas(betas)
    return schedule.without_terminal_signal() if zero_terminal_snr else schedule


SCHEDULES: dict[str, type[ScheduleSettings]] = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "first_principles": Linear,
}
