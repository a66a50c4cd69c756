"""Samplers that look back: higher order at one evaluation a step, in half the log SNR.

With lambda = log(sqrt(alpha_bar) / sigma), h = lambda_s - lambda_t and a = sqrt(alpha_bar), the
flow is exactly

    x_s = (sigma_s / sigma_t) x_t + a_s integral_0^1 h exp(-h (1 - u)) x0_hat(lambda_t + u h) du

and a polynomial through the last estimates of x_0 stands for x0_hat. The step to s = 0, where
lambda is infinite, goes to x0_hat.

References:
    Lu et al. 2022 (DPM-Solver++), https://arxiv.org/abs/2211.01095
    Zhao et al. 2023 (UniPC), https://arxiv.org/abs/2302.04867
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ddpm.process import Batch, Denoiser
from ddpm.reverse import Moment, Sampler, normal_like
from ddpm.schedules import Schedule


class Stride(NamedTuple):
    """A step in lambda: its length h, and what is left of x_t and goes to x_s."""

    h: float
    kept: float
    a_s: float
    sigma_s: float


def half_log_snr(schedule: Schedule, t: float) -> float:
    """Lambda = log(sqrt(alpha_bar) / sigma) at a time in (0, T]."""
    a, sigma = schedule.levels(t)
    return math.log(a / sigma)


class Multistep(Sampler):
    """A sampler that works in lambda; `advance` is its move to some s > 0."""

    uses_log_snr = True

    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """See `Sampler`."""
        x0_hat, _ = denoiser(x_t, t)
        schedule = denoiser.schedule
        now = self.corrected(schedule, Moment(t, x_t, x0_hat), past)
        if s == 0:
            return x0_hat, now
        stride = _stride(schedule, t, s)
        return self.advance(schedule, now, stride, past, generator), now

    def corrected(
        self,
        schedule: Schedule,
        now: Moment,
        past: Sequence[Moment],
    ) -> Moment:
        """The present moment once its estimate of x_0 is known: mostly as it was."""
        return now

    @abstractmethod
    def advance(
        self,
        schedule: Schedule,
        now: Moment,
        stride: Stride,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> Batch:
        """x_s from the present moment and those before it, the latest last."""


class DPMSolver2M(Multistep):
    """DPM-Solver++(2M): a line through the last two estimates of x_0; the first step is DDIM's.

    As the paper does, the line enters with its slope over half the step (its midpoint form).

    References:
        Lu et al. 2022, algorithm 2, https://arxiv.org/abs/2211.01095
    """

    def advance(
        self,
        schedule: Schedule,
        now: Moment,
        stride: Stride,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> Batch:
        """See `Multistep`."""
        gained = -math.expm1(-stride.h)
        estimate = now.x0_hat
        if past:
            estimate = estimate + _slopes(schedule, now, past[-1:], stride.h)[0] / 2
        return stride.kept * now.x_t + stride.a_s * gained * estimate


class DPMSolver3M(Multistep):
    """A parabola through the last three estimates of x_0, integrated exactly: of third order.

    `diffusers` gives the second difference half of its weight, and is of second order; this is the
    true third-order method. The first two steps are those of lower order.

    References:
        Lu et al. 2022, appendix A (the integrals), https://arxiv.org/abs/2211.01095
    """

    def advance(
        self,
        schedule: Schedule,
        now: Moment,
        stride: Stride,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> Batch:
        """See `Multistep`."""
        h = stride.h
        linear, square = _integrals(h)
        integral = -math.expm1(-h) * now.x0_hat
        if len(past) == 1:
            integral = integral + linear * _slopes(schedule, now, past[-1:], h)[0]
        elif past:
            near, far = _slopes(schedule, now, past[-2:], h)
            r, reach = (_back(schedule, now, one, h) for one in (past[-1], past[-2]))
            # Newton's form: near is the slope over the last step, the second difference bends it.
            bend = (near - far) / reach
            integral = integral + linear * (near + r * bend) + square * bend
        return stride.kept * now.x_t + stride.a_s * integral


class DPMSolverSDE2M(Multistep):
    """DPM-Solver++(2M) for the reverse SDE: each step forgets as much as it adds in fresh noise.

    References:
        Lu et al. 2022, appendix B (SDE-DPM-Solver++), https://arxiv.org/abs/2211.01095
    """

    @property
    def deterministic(self) -> bool:
        """See `Sampler`."""
        return False

    def advance(
        self,
        schedule: Schedule,
        now: Moment,
        stride: Stride,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> Batch:
        """See `Multistep`."""
        gained = -math.expm1(-2 * stride.h)
        estimate = now.x0_hat
        if past:
            estimate = estimate + _slopes(schedule, now, past[-1:], stride.h)[0] / 2
        return (
            stride.kept * math.exp(-stride.h) * now.x_t
            + stride.a_s * gained * estimate
            + stride.sigma_s * math.sqrt(gained) * normal_like(now.x_t, generator)
        )


class UniPC(Multistep):
    """UniPC-2 with B(h) = exp(h) - 1: 2M's predictor, and a corrector of third order for nothing.

    Once the estimate at t is known, the step that led there is made again with it.

    References:
        Zhao et al. 2023, algorithms 5 to 8, https://arxiv.org/abs/2302.04867
    """

    def corrected(self, schedule: Schedule, now: Moment, past: Sequence[Moment]) -> Moment:
        """See `Multistep`."""
        if not past:
            return now
        *before, last = past
        stride = _stride(schedule, last.t, now.t)
        gained = -math.expm1(-stride.h)
        rise = now.x0_hat - last.x0_hat
        # Over the step: the rise alone, or with the slope before it the parabola through all three.
        change = rise / 2
        if before:
            linear, square = _integrals(stride.h)
            (slope,) = _slopes(schedule, last, before[-1:], stride.h)
            bent = (linear - square) / gained / (1 + _back(schedule, last, before[-1], stride.h))
            change = bent * slope + (linear / gained - bent) * rise
        x_t = stride.kept * last.x_t + stride.a_s * gained * (last.x0_hat + change)
        return now._replace(x_t=x_t)

    def advance(
        self,
        schedule: Schedule,
        now: Moment,
        stride: Stride,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> Batch:
        """See `Multistep`."""
        return DPMSolver2M().advance(schedule, now, stride, past, generator)


def _stride(schedule: Schedule, t: float, s: float) -> Stride:
    a_s, sigma_s = schedule.levels(s)
    _, sigma_t = schedule.levels(t)
    h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
    return Stride(h, sigma_s / sigma_t, a_s, sigma_s)


def _integrals(h: float) -> tuple[float, float]:
    """Integrals of h exp(-h (1 - u)) u and of the same with u^2, over u in [0, 1]."""
    linear = 1 + math.expm1(-h) / h
    return linear, 1 - 2 * linear / h


def _slopes(schedule: Schedule, now: Moment, before: Sequence[Moment], h: float) -> list[Batch]:
    """Slopes of x0_hat per step of length h, from now backwards: over the last gap first."""
    later = (now, *reversed(before))
    return [
        (one.x0_hat - other.x0_hat)
        / (_back(schedule, now, other, h) - _back(schedule, now, one, h))
        for one, other in itertools.pairwise(later)
    ]


def _back(schedule: Schedule, now: Moment, before: Moment, h: float) -> float:
    """How far an earlier moment lies behind, in steps of length h."""
    return (half_log_snr(schedule, now.t) - half_log_snr(schedule, before.t)) / h
