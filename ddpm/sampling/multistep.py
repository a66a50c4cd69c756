"""Multistep samplers: of higher order, at one denoiser evaluation per step.

With half the log SNR, lambda = log(a / sigma), where a = sqrt(alpha_bar), and with
h = lambda_s - lambda_t, the probability flow is exactly

    x_s = (sigma_s / sigma_t) x_t + a_s integral_0^1 h exp(-h (1 - u)) x0_hat(lambda_t + u h) du

These samplers replace x0_hat by a polynomial in lambda through the latest estimates of x_0. The
step to s = 0, where lambda is infinite, returns x0_hat.

References:
    Lu et al. 2022 (DPM-Solver++), https://arxiv.org/abs/2211.01095
    Zhao et al. 2023 (UniPC), https://arxiv.org/abs/2302.04867
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from typing_extensions import override

from ddpm.diffusion.predictions import Batch
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.sampler import ReverseStep, Sampler, SamplerState


class Stride(NamedTuple):
    """Coefficients of one step from t to s.

    Attributes:
        h: Length of the step in lambda.
        decay: sigma_s / sigma_t, the factor of x_t in x_s.
        a_s: sqrt(alpha_bar) at s.
        sigma_s: Noise level at s.
    """

    h: float
    decay: float
    a_s: float
    sigma_s: float

    @classmethod
    def between(cls, schedule: Schedule, t: float, s: float) -> "Stride":
        """Compute the coefficients of the step from t to s, for 0 < s < t."""
        a_s, sigma_s = schedule.levels(s)
        _, sigma_t = schedule.levels(t)
        return cls(_lambda(schedule, s) - _lambda(schedule, t), sigma_s / sigma_t, a_s, sigma_s)


class Multistep(Sampler):
    """A sampler that steps in lambda. Subclasses implement `advance`, the step to a time s > 0."""

    uses_log_snr = True
    earlier_states = 2

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        x0_hat, _ = step.denoiser(step.x_t, step.t)
        state = self.corrected(step, SamplerState(step.t, step.x_t, x0_hat))
        if step.s == 0:
            return x0_hat, state
        return self.advance(step, state, Stride.between(step.schedule, step.t, step.s)), state

    def corrected(
        self,
        step: ReverseStep,  # noqa: ARG002 - for correctors
        state: SamplerState,
    ) -> SamplerState:
        """Correct x_t now that x0_hat at t is known. The default leaves it unchanged."""
        return state

    @abstractmethod
    def advance(self, step: ReverseStep, state: SamplerState, stride: Stride) -> Batch:
        """Compute x_s from the current state, `step.history` and the coefficients in `stride`."""


class DPMSolver2M(Multistep):
    """DPM-Solver++(2M): a line through the last two estimates of x_0. Second order.

    The line is evaluated at the middle of the step, as in the paper. The first step is DDIM's.

    References:
        Lu et al. 2022, algorithm 2, https://arxiv.org/abs/2211.01095
    """

    earlier_states = 1

    @override
    def advance(self, step: ReverseStep, state: SamplerState, stride: Stride) -> Batch:
        gain = -math.expm1(-stride.h)
        estimate = _midpoint_estimate(step, state, stride.h)
        return stride.decay * state.x_t + stride.a_s * gain * estimate


class DPMSolver3M(Multistep):
    """DPM-Solver++(3M): a parabola through the last three estimates of x_0. Third order.

    The parabola is integrated exactly. `diffusers` gives the second difference half its weight, and
    is therefore of second order. The first two steps have fewer estimates and so a lower order.

    References:
        Lu et al. 2022, appendix A (the integrals), https://arxiv.org/abs/2211.01095
    """

    @override
    def advance(self, step: ReverseStep, state: SamplerState, stride: Stride) -> Batch:
        schedule, history, h = step.schedule, step.history, stride.h
        linear, square = _integrals(h)
        integral = -math.expm1(-h) * state.x0_hat
        if len(history) == 1:
            integral = integral + linear * _slopes(schedule, state, history[-1:], h)[0]
        elif history:
            # Newton's form of the parabola: two slopes, and their divided difference.
            last_slope, earlier_slope = _slopes(schedule, state, history[-2:], h)
            last_gap, whole_gap = (_gap(schedule, state, history[-k], h) for k in (1, 2))
            bend = (last_slope - earlier_slope) / whole_gap
            integral = integral + linear * (last_slope + last_gap * bend) + square * bend
        return stride.decay * state.x_t + stride.a_s * integral


class DPMSolverSDE2M(Multistep):
    """SDE-DPM-Solver++(2M): DPM-Solver++(2M) with fresh noise in each step.

    References:
        Lu et al. 2022, appendix B (SDE-DPM-Solver++), https://arxiv.org/abs/2211.01095
    """

    earlier_states = 1

    @property
    @override
    def deterministic(self) -> bool:
        return False

    @override
    def advance(self, step: ReverseStep, state: SamplerState, stride: Stride) -> Batch:
        gain = -math.expm1(-2 * stride.h)
        estimate = _midpoint_estimate(step, state, stride.h)
        return (
            stride.decay * math.exp(-stride.h) * state.x_t
            + stride.a_s * gain * estimate
            + stride.sigma_s * math.sqrt(gain) * step.noise()
        )


class UniPC(Multistep):
    """UniPC-2 with B(h) = exp(h) - 1: the predictor of `DPMSolver2M` and a third-order corrector.

    The corrector costs no evaluation: once x0_hat at t is known, the step that led to t is repeated
    with it.

    References:
        Zhao et al. 2023, algorithms 5 to 8, https://arxiv.org/abs/2302.04867
    """

    @override
    def corrected(self, step: ReverseStep, state: SamplerState) -> SamplerState:
        if not step.history:
            return state
        *earlier, last = step.history
        stride = Stride.between(step.schedule, last.t, state.t)
        gain = -math.expm1(-stride.h)
        difference = state.x0_hat - last.x0_hat
        # Weighted mean of x0_hat - last.x0_hat over the step: half the difference, or the integral
        # of the parabola that also passes through the estimate before the last.
        change = difference / 2
        if earlier:
            linear, square = _integrals(stride.h)
            (slope,) = _slopes(step.schedule, last, earlier[-1:], stride.h)
            slope_weight = (linear - square) / gain
            slope_weight /= 1 + _gap(step.schedule, last, earlier[-1], stride.h)
            change = slope_weight * slope + (linear / gain - slope_weight) * difference
        x_t = stride.decay * last.x_t + stride.a_s * gain * (last.x0_hat + change)
        return state._replace(x_t=x_t)

    @override
    def advance(self, step: ReverseStep, state: SamplerState, stride: Stride) -> Batch:
        return DPMSolver2M().advance(step, state, stride)


def _lambda(schedule: Schedule, t: float) -> float:
    """Evaluate lambda, half the log SNR, at a time in (0, T].

    It differs from `schedule.log_snr_at(t) / 2` in the last bit. Through the rounding of a float32
    network that bit would change the third digit of the optimised times.
    """
    a, sigma = schedule.levels(t)
    return math.log(a / sigma)


def _midpoint_estimate(step: ReverseStep, state: SamplerState, h: float) -> Batch:
    """Estimate x_0 at the middle of the step, on a line through the last two estimates."""
    if not step.history:
        return state.x0_hat
    return state.x0_hat + _slopes(step.schedule, state, step.history[-1:], h)[0] / 2


def _integrals(h: float) -> tuple[float, float]:
    """Integrals of h exp(-h (1 - u)) u and of the same with u^2, over u in [0, 1]."""
    linear = 1 + math.expm1(-h) / h
    return linear, 1 - 2 * linear / h


def _slopes(
    schedule: Schedule, state: SamplerState, history: Sequence[SamplerState], h: float
) -> list[Batch]:
    """Slopes of x0_hat between neighbouring states, per length h of lambda, the latest first."""
    latest_first = (state, *reversed(history))
    return [
        (later.x0_hat - earlier.x0_hat)
        / (_gap(schedule, state, earlier, h) - _gap(schedule, state, later, h))
        for later, earlier in itertools.pairwise(latest_first)
    ]


def _gap(schedule: Schedule, state: SamplerState, earlier: SamplerState, h: float) -> float:
    """Distance in lambda from an earlier state to the current one, in units of h."""
    return (_lambda(schedule, state.t) - _lambda(schedule, earlier.t)) / h
