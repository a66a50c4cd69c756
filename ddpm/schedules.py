"""Noise schedules: how much of the data is left at each step.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
    q(x_t | x_0)     = N(sqrt(alpha_bar_t) x_0, sigma_t^2 I)
    alpha_bar_t = prod_{i <= t} (1 - beta_i),  sigma_t^2 = 1 - alpha_bar_t,  t = 1 ... T

Tables have T + 1 entries and t = 0 is data: beta[0] = 0, alpha_bar[0] = 1. They are float64 and
kept as log alpha_bar, so that neither end loses digits. Between the integers log alpha_bar is a
cubic that falls: solvers and likelihood live there.

A schedule is a class with its settings as fields and one method, `betas(T)`; its values stand in
params.yaml under `schedules`, its name in SCHEDULES at the foot.

References:
    Ho et al. 2020, https://arxiv.org/abs/2006.11239
    Fritsch & Carlson 1980 (monotone cubics), https://doi.org/10.1137/0717021
"""

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from jaxtyping import Float64
from pydantic import Field, model_validator
from torch import Tensor

from ddpm.errors import UserError
from ddpm.params import Params, Positive, Real, Settings, choose, section, settings
from ddpm.runtime import log, sqrt

# At t = 0 ... T, and at t = 1 ... T.
Table = Float64[Tensor, " times"]
Betas = Float64[Tensor, " steps"]


@dataclass(frozen=True)
class Schedule:
    """The tables of one schedule, t = 0 ... T.

    Attributes:
        log_alpha_bar: Logarithm of the cumulative product, shape (T + 1,), 0 at t = 0.
    """

    log_alpha_bar: Table

    @classmethod
    def from_betas(cls, betas: Betas) -> "Schedule":
        """Tables of the steps beta_1 ... beta_T, each in (0, 1)."""
        return cls(torch.cat((betas.new_zeros(1), torch.log1p(-betas).cumsum(0))))

    def without_signal_at_end(self) -> "Schedule":
        """The same, shifted and scaled so that sqrt(alpha_bar) ends at 0 and starts as before.

        References:
            Lin et al. 2023, algorithm 1, https://arxiv.org/abs/2305.08891
        """
        root = self.sqrt_alpha_bar
        first, last = root[1], root[-1]
        rescaled = (root - last) * (first / (first - last))
        # log2 of 0 is minus infinity, as it should be.
        return Schedule(torch.cat((root.new_zeros(1), 2 * log(rescaled[1:]))))

    @property
    def T(self) -> int:  # noqa: N802 - the field's name
        """Number of steps."""
        return len(self.log_alpha_bar) - 1

    @cached_property
    def alpha_bar(self) -> Table:
        """What is left of the data's variance, in (0, 1]."""
        return self.log_alpha_bar.exp()

    @cached_property
    def sqrt_alpha_bar(self) -> Table:
        """What is left of the data itself, in (0, 1]."""
        return sqrt(self.alpha_bar)

    @cached_property
    def sigma(self) -> Table:
        """Noise level sqrt(1 - alpha_bar), in [0, 1)."""
        return sqrt(-torch.expm1(self.log_alpha_bar))

    @cached_property
    def beta(self) -> Table:
        """Variance that step t adds; 0 at t = 0."""
        return -torch.expm1(self.log_alpha_bar.diff(prepend=self.log_alpha_bar[:1]))

    @cached_property
    def log_snr(self) -> Table:
        """log(alpha_bar / (1 - alpha_bar)); infinite at t = 0."""
        return self.log_alpha_bar - log(-torch.expm1(self.log_alpha_bar))

    def log_alpha_bar_at(self, t: float) -> float:
        """Value of log alpha_bar at a real time: the table's value at the integers.

        Args:
            t: Time in [0, T].

        Raises:
            ValueError: If t is outside.
        """
        if not 0 <= t <= self.T:
            raise ValueError(f"t is {t} but should be in [0, {self.T}]")
        k = min(int(t), self.T - 1)
        return self._cubic(k, t - k)

    def levels(self, t: float) -> tuple[float, float]:
        """sqrt(alpha_bar) and sigma at a real time in [0, T]."""
        log_alpha_bar = self.log_alpha_bar_at(t)
        return math.exp(log_alpha_bar / 2), math.sqrt(max(0.0, -math.expm1(log_alpha_bar)))

    def time_of(self, log_alpha_bar: float) -> float:
        """The real time at which log alpha_bar has a value: the inverse of `log_alpha_bar_at`.

        Args:
            log_alpha_bar: At most 0; below the table's last value the answer is T.
        """
        fallen, target = self._fallen, -log_alpha_bar
        if target >= fallen[-1]:
            return float(self.T)
        k = max(0, bisect.bisect_right(fallen, target) - 1)
        low, high = 0.0, 1.0
        # Halving a cell of length 1 meets the spacing of float64 after 53 steps.
        for _ in range(53):
            middle = (low + high) / 2
            if -self._cubic(k, middle) < target:
                low = middle
            else:
                high = middle
        return k + low

    def _cubic(self, k: int, h: float) -> float:
        """Value of log alpha_bar at k + h, 0 <= h <= 1: Hermite's cubic with the ends' slopes."""
        start, end = -self._fallen[k], -self._fallen[k + 1]
        if math.isinf(end):
            # To no signal at all: what is left of the data itself falls in a straight line.
            return start + 2 * math.log1p(-h) if h < 1 else end
        slope, end_slope = self._slopes[k], self._slopes[k + 1]
        rise = end - start
        square = 3 * rise - 2 * slope - end_slope
        cube = slope + end_slope - 2 * rise
        return start + h * (slope + h * (square + h * cube))

    @cached_property
    def _fallen(self) -> list[float]:
        return [-value for value in self.log_alpha_bar.tolist()]

    @cached_property
    def _slopes(self) -> list[float]:
        """Derivative of log alpha_bar at the integers: second-order differences.

        None is positive or steeper than three times a neighbouring chord: the cubic then falls.
        """
        chords = [chord for chord in self.log_alpha_bar.diff().tolist() if math.isfinite(chord)]
        # The last cell, where it ends at no signal, has a form of its own.
        chords += chords[-1:] * (self.T - len(chords))
        first, last = chords[0], chords[-1]
        if self.T > 1:
            first += (chords[0] - chords[1]) / 2
            last += (chords[-1] - chords[-2]) / 2
        inner = [(left + right) / 2 for left, right in itertools.pairwise(chords)]
        steepest = [3 * max(pair) for pair in itertools.pairwise((chords[0], *chords, chords[-1]))]
        slopes = zip((first, *inner, last), steepest, strict=True)
        return [min(0.0, max(slope, limit)) for slope, limit in slopes]


class ScheduleSettings(Settings, ABC):
    """A schedule: its settings as fields, and its steps."""

    @abstractmethod
    def betas(self, T: int) -> Betas:
        """beta_1 ... beta_T; a value outside (0, 1) says that T does not suit the schedule."""


Step = Annotated[Positive, Field(lt=1)]


class Linear(ScheduleSettings):
    """beta rises linearly; its ends are given for T = 1000 and scaled by 1000 / T.

    References:
        Ho et al. 2020, section 4 (1e-4 to 0.02). The blog's schedule, `first_principles`, is this
        one with 8e-6 to 9e-5: it stops while x_T is still the data.
    """

    beta_start: Step
    beta_end: Step

    def betas(self, T: int) -> Betas:
        """See `ScheduleSettings`."""
        return torch.linspace(self.beta_start, self.beta_end, T, dtype=torch.float64) * (1000 / T)


class ScaledLinear(ScheduleSettings):
    """sqrt(beta) rises linearly; the ends of beta are given for T = 1000 and scaled by 1000 / T.

    References:
        Rombach et al. 2022 (latent diffusion, 0.00085 to 0.012), https://arxiv.org/abs/2112.10752
    """

    beta_start: Step
    beta_end: Step

    def betas(self, T: int) -> Betas:
        """See `ScheduleSettings`."""
        start, end = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return torch.linspace(start, end, T, dtype=torch.float64).square() * (1000 / T)


class Cosine(ScheduleSettings):
    """alpha_bar = f(t / T) / f(0) with f(r) = cos^2(pi / 2 (r + s) / (1 + s)); beta <= beta_max.

    References:
        Nichol & Dhariwal 2021, eq. 17 (s = 0.008, beta_max = 0.999), https://arxiv.org/abs/2102.09672
    """

    s: Annotated[Real, Field(ge=0, le=1)]
    beta_max: Step

    def betas(self, T: int) -> Betas:
        """See `ScheduleSettings`."""

        def f(r: Table) -> Table:
            return torch.cos((r + self.s) / (1 + self.s) * math.pi / 2).square()

        return _betas_of(f, T, self.beta_max)


class Sigmoid(ScheduleSettings):
    """alpha_bar falls as a sigmoid, from 1 at t = 0 towards 0 at t = T; beta <= beta_max.

    With g(r) = sigmoid((start + r (end - start)) / tau), alpha_bar is
    (g(1) - g(r)) / (g(1) - g(0)). As written alpha_bar_T is 0, which no step with beta < 1 reaches:
    hence beta_max, as for `cosine`.

    References:
        Jabri et al. 2022, algorithm 4 (start -3, end 3, tau 1), https://arxiv.org/abs/2212.11972
    """

    start: Annotated[Real, Field(ge=-100, le=100)]
    end: Annotated[Real, Field(ge=-100, le=100)]
    tau: Annotated[Positive, Field(ge=0.01, le=100)]
    beta_max: Step

    @model_validator(mode="after")
    def _rises(self) -> "Sigmoid":
        if self.start >= self.end:
            raise ValueError("start should be less than end")
        return self

    def betas(self, T: int) -> Betas:
        """See `ScheduleSettings`."""

        def f(r: Table) -> Table:
            g = torch.sigmoid((self.start + r * (self.end - self.start)) / self.tau)
            return g[-1] - g

        return _betas_of(f, T, self.beta_max)


def _betas_of(f: Callable[[Table], Table], T: int, beta_max: float) -> Betas:
    """Steps of alpha_bar = f(t / T) / f(0), none above beta_max."""
    alpha_bar = f(torch.arange(T + 1, dtype=torch.float64) / T)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)


def make_schedule(name: str, values: ScheduleSettings, T: int) -> Schedule:
    """Tables of a schedule with T steps.

    Raises:
        UserError: If some beta is not in (0, 1); names the smallest T that works.
    """
    betas = values.betas(T)
    if bool((betas >= 1).any()):
        smallest = next(n for n in itertools.count(T + 1) if bool((values.betas(n) < 1).all()))
        raise UserError(
            f"diffusion.T is {T} but the schedule {name} then has a beta of {betas.max():.4g} and"
            f" each should be below 1; raise diffusion.T in params.yaml to at least {smallest}"
        )
    if not bool((betas > 0).all()):
        raise UserError(
            f"schedules.{name} has a beta of {betas.min():.4g} at T = {T} but each should be above"
            f" 0; change schedules.{name} in params.yaml"
        )
    return Schedule.from_betas(betas)


def schedule_of(params: Params) -> Schedule:
    """The schedule that params.yaml names.

    Raises:
        UserError: If its name, its settings or T are not allowed.
    """
    name = params.schedule
    kind = choose("schedule", name, SCHEDULES)
    values = settings(f"schedules.{name}", kind, section("schedules", name, params.schedules))
    schedule = make_schedule(name, values, params.diffusion.T)
    if not params.diffusion.zero_terminal_snr:
        return schedule
    if params.prediction == "eps":
        raise UserError(
            "diffusion.zero_terminal_snr is true but prediction is eps, which says nothing of x_0"
            " where there is no signal; change prediction to v or x0 in params.yaml"
        )
    if schedule.T < 2:
        raise UserError(
            "diffusion.zero_terminal_snr is true but diffusion.T is 1; raise diffusion.T in"
            " params.yaml to at least 2"
        )
    return schedule.without_signal_at_end()


SCHEDULES: dict[str, type[ScheduleSettings]] = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "first_principles": Linear,
}
