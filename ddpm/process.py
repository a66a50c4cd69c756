"""The forward process, its posterior, and every conversion between eps, x0 and v.

    x_t = sqrt(alpha_bar_t) x_0 + sigma_t eps,  eps ~ N(0, I)
    v_t = sqrt(alpha_bar_t) eps - sigma_t x_0

All points here are in model units. Coefficients are computed in float64 and applied in the
precision of the points: a float32 network on any device loses nothing but its own rounding.

References:
    Ho et al. 2020, https://arxiv.org/abs/2006.11239
    Salimans & Ho 2022 (v-prediction), https://arxiv.org/abs/2202.00512
"""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import trange

from ddpm.schedules import Schedule

Batch = Float[Tensor, "*shape"]
# One time for all points or one for each; and what it gives.
Times = float | Int[Tensor, "*leading"]
Coefficient = float | Float[Tensor, "*broadcast"]


def coefficients(schedule: Schedule, t: Times, like: Batch) -> tuple[Coefficient, Coefficient]:
    """sqrt(alpha_bar_t) and sigma_t, shaped to multiply points.

    Args:
        schedule: Supplies alpha_bar.
        t: Time in [0, T] for all points; or in 0 ... T for each (the leading axes of `like`).
        like: Points, whose precision and device the coefficients take.
    """
    if not isinstance(t, Tensor):
        return schedule.levels(t)
    index = t.to(like.device)
    shape = (*index.shape, *(1 for _ in range(like.ndim - index.ndim)))
    # First the precision, then the device: not every device holds float64.
    a, sigma = (
        table.to(like.dtype).to(like.device)[index].reshape(shape)
        for table in (schedule.sqrt_alpha_bar, schedule.sigma)
    )
    return a, sigma


def q_sample(schedule: Schedule, x0: Batch, t: Times, eps: Batch) -> Batch:
    """Closed form of the forward process: x_t from x_0.

    Args:
        schedule: Supplies alpha_bar.
        x0: Clean points, model units.
        t: Time in [0, T] for all points, or in 0 ... T for each.
        eps: Standard normal noise of the same shape.

    Returns:
        Points of q(x_t | x_0), model units.

    References:
        Ho et al. 2020, eq. 4.
    """
    a, sigma = coefficients(schedule, t, x0)
    return a * x0 + sigma * eps


def q_step(schedule: Schedule, x: Batch, t: int, eps: Batch) -> Batch:
    """One step of the forward process: x_t from x = x_{t-1}, for t in 1 ... T.

    References:
        Ho et al. 2020, eq. 2.
    """
    beta = float(schedule.beta[t])
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * eps


def diffuse(
    schedule: Schedule, x0: Batch, keep: Set[int], *, generator: torch.Generator
) -> dict[int, Batch]:
    """The forward process step by step, q(x_t | x_{t-1}) for t = 1 ... T.

    Args:
        schedule: Supplies beta.
        x0: Clean points, model units.
        keep: Times at which to keep the points, in 0 ... T.
        generator: Source of the noise.

    Returns:
        The same points at each time to keep, in order of time.
    """
    kept = {0: x0} if 0 in keep else {}
    x = x0
    for t in trange(1, schedule.T + 1, desc="diffuse", unit="step", disable=None):
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = q_step(schedule, x, t, eps)
        if t in keep:
            kept[t] = x
    return kept


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(x0 * x_0 + x_t * x_t, variance I), and the variance of q(x_t | x_s)."""

    x0: float
    x_t: float
    variance: float
    beta: float


def posterior(schedule: Schedule, t: float, s: float) -> Posterior:
    """Coefficients of the posterior of x_s given x_t and x_0.

    With r = alpha_bar_t / alpha_bar_s and beta = 1 - r, the variance of q(x_t | x_s):

        x0 = sqrt(alpha_bar_s) beta / sigma_t^2,  x_t = sqrt(r) sigma_s^2 / sigma_t^2,
        variance = beta sigma_s^2 / sigma_t^2

    Args:
        schedule: Supplies alpha_bar.
        t: Current time, in (0, T].
        s: Earlier time, in [0, t); s = 0 gives x_0 itself with no variance.

    Raises:
        ValueError: If not 0 <= s < t <= T.

    References:
        Ho et al. 2020, eq. 6 and 7 (there s = t - 1).
    """
    if not 0 <= s < t <= schedule.T:
        raise ValueError(f"t is {t} and s is {s} but should be 0 <= s < t <= {schedule.T}")
    log_t, log_s = schedule.log_alpha_bar_at(t), schedule.log_alpha_bar_at(s)
    # At s = 0 nothing is added to nothing: 0, where -expm1(0) would be -0.
    beta = -math.expm1(log_t - log_s)
    var_t, var_s = -math.expm1(log_t), abs(math.expm1(log_s))
    return Posterior(
        x0=math.exp(log_s / 2) * beta / var_t,
        x_t=math.exp((log_t - log_s) / 2) * var_s / var_t,
        variance=beta * var_s / var_t,
        beta=beta,
    )


def prior_gap(schedule: Schedule, x0: Batch) -> Float[Tensor, " *leading"]:
    """KL(q(x_T | x_0) || N(0, I)) of each x_0, in nats: how far x_T is from noise.

    With d coordinates: (d (sigma_T^2 - 1 - log sigma_T^2) + alpha_bar_T |x_0|^2) / 2.

    Args:
        schedule: Supplies alpha_bar_T.
        x0: Clean points, model units.

    References:
        Ho et al. 2020, L_T in eq. 5.
    """
    log_alpha_bar = float(schedule.log_alpha_bar[-1])
    alpha_bar, log_variance = math.exp(log_alpha_bar), math.log(-math.expm1(log_alpha_bar))
    squared = x0.double().flatten(1).square().sum(1)
    d = math.prod(x0.shape[1:])
    return (d * (-alpha_bar - log_variance) + alpha_bar * squared) / 2


@dataclass(frozen=True)
class Prediction:
    """A parametrisation: what the network is asked for, and how x0 and eps follow from it.

    Attributes:
        target: (x0, eps, a, sigma) to what the network should say, with a = sqrt(alpha_bar).
        split: (said, x_t, a, sigma) to (x0_hat, eps_hat).
        regular: Whether both are finite at t = 0, where sigma is 0.
    """

    target: Callable[[Batch, Batch, Coefficient, Coefficient], Batch]
    split: Callable[[Batch, Batch, Coefficient, Coefficient], tuple[Batch, Batch]]
    regular: bool


@dataclass(frozen=True)
class Denoiser:
    """What is known of the clean data at (x_t, t), whoever says it: a network or the exact truth.

    Attributes:
        function: A network, or the truth: (x_t, t) to a prediction, in model units. t has one
            entry for all points or one for each.
        prediction: What the function predicts.
        schedule: Supplies alpha_bar.
        precision: What the function computes in; nothing: in the precision of the points.
        finite: Whether the function is finite at t = 0; the truth of data without noise is not.
    """

    function: Callable[[Batch, Float[Tensor, " #batch"]], Batch]
    prediction: Prediction
    schedule: Schedule
    precision: torch.dtype | None = None
    finite: bool = True

    @property
    def regular(self) -> bool:
        """Whether the flow reaches t = 0."""
        return self.finite and self.prediction.regular

    def predict(self, x_t: Batch, t: float) -> Batch:
        """What the function says at a time in [0, T], in the precision of the points."""
        x = x_t if self.precision is None else x_t.to(self.precision)
        return self.function(x, x.new_tensor([t])).to(x_t.dtype)

    def __call__(self, x_t: Batch, t: float) -> tuple[Batch, Batch]:
        """Estimates (x0_hat, eps_hat) at a time in (0, T], model units.

        At t = 0 too, if the prediction is regular there.
        """
        return self.prediction.split(self.predict(x_t, t), x_t, *self.schedule.levels(t))

    def velocity(self, x_t: Batch, t: float) -> Batch:
        """Estimate of v: the probability flow's d x_t / d angle, with sigma = sin(angle)."""
        x0_hat, eps_hat = self(x_t, t)
        return PREDICTIONS["v"].target(x0_hat, eps_hat, *self.schedule.levels(t))


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        target=lambda x0, eps, a, sigma: eps,
        split=lambda said, x_t, a, sigma: ((x_t - sigma * said) / a, said),
        regular=True,
    ),
    "x0": Prediction(
        target=lambda x0, eps, a, sigma: x0,
        split=lambda said, x_t, a, sigma: (said, (x_t - a * said) / sigma),
        regular=False,
    ),
    "v": Prediction(
        target=lambda x0, eps, a, sigma: a * eps - sigma * x0,
        split=lambda said, x_t, a, sigma: (a * x_t - sigma * said, sigma * x_t + a * said),
        regular=True,
    ),
}
