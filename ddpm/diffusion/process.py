"""The forward process, its posterior, and the divergence of x_T from pure noise.

    x_t = sqrt(alpha_bar_t) x_0 + sigma_t eps,  eps ~ N(0, I)

All points are in model units. Coefficients are computed in float64 and applied in the precision of
the points, so that the only float32 rounding is that of the points and of the network.

References:
    Ho et al. 2020, https://arxiv.org/abs/2006.11239
"""

import math
from collections.abc import Set
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import trange

from ddpm.diffusion.predictions import Batch, Coefficient
from ddpm.diffusion.schedule import Schedule

# One time for all points, or one for each.
Times = float | Int[Tensor, "*leading"] | Float[Tensor, "*leading"]


def coefficients(schedule: Schedule, t: Times, like: Batch) -> tuple[Coefficient, Coefficient]:
    """Look up sqrt(alpha_bar_t) and sigma_t in a shape that multiplies points.

    Args:
        schedule: Supplies alpha_bar.
        t: Time in [0, T] for all points; or one for each, whole or real, with the leading axes of
            `like`.
        like: The points to be multiplied: they determine shape, precision and device.
    """
    if not isinstance(t, Tensor):
        return schedule.levels(t)
    shape = (*t.shape, *(1 for _ in range(like.ndim - t.ndim)))
    t = t.cpu()
    if t.is_floating_point():
        levels = schedule.levels_of(t)
    else:
        levels = (schedule.sqrt_alpha_bar[t], schedule.sigma[t])
    # Convert the precision before moving to the device, because not every device supports float64.
    a, sigma = (level.to(like.dtype).to(like.device).reshape(shape) for level in levels)
    return a, sigma


def q_sample(schedule: Schedule, x0: Batch, t: Times, eps: Batch) -> Batch:
    """Add noise in one step, x_t from x_0: the closed form of the forward process.

    Args:
        schedule: Supplies alpha_bar.
        x0: Clean points, model units.
        t: Time in [0, T] for all points, or one for each.
        eps: Standard normal noise of the same shape.

    Returns:
        Points drawn from q(x_t | x_0), model units.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.1).double())
        >>> x0, eps = torch.ones(5, 2), torch.zeros(5, 2)
        >>> bool(torch.allclose(q_sample(schedule, x0, 2, eps), torch.full((5, 2), 0.9)))
        True

    References:
        Ho et al. 2020, eq. 4.
    """
    return add_noise(x0, eps, *coefficients(schedule, t, x0))


def add_noise(x0: Batch, eps: Batch, a: Coefficient, sigma: Coefficient) -> Batch:
    """Compute x_t from coefficients that `coefficients` has looked up; see `q_sample`."""
    return a * x0 + sigma * eps


def q_step(schedule: Schedule, x: Batch, t: int, eps: Batch) -> Batch:
    """Take one step of the forward process: x_t from x = x_{t-1}, for t in 1 ... T.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.19).double())
        >>> q_step(schedule, torch.ones(1, 2), 1, torch.zeros(1, 2))
        tensor([[0.9000, 0.9000]])

    References:
        Ho et al. 2020, eq. 2.
    """
    beta = float(schedule.beta[t])
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * eps


def diffuse(
    schedule: Schedule, x0: Batch, keep: Set[int], *, generator: torch.Generator
) -> dict[int, Batch]:
    """Run the forward process step by step, q(x_t | x_{t-1}) for t = 1 ... T.

    Args:
        schedule: Supplies beta.
        x0: Clean points, model units.
        keep: Times in 0 ... T whose points are returned.
        generator: Source of the noise.

    Returns:
        The noisy points at each of these times, in order of time.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((100,), 0.1).double())
        >>> x0, generator = torch.zeros(1000, 2), torch.Generator().manual_seed(0)
        >>> points = diffuse(schedule, x0, {0, 100}, generator=generator)
        >>> {t: round(float(x.std())) for t, x in points.items()}
        {0: 0, 100: 1}
    """
    points_at = {0: x0} if 0 in keep else {}
    x = x0
    for t in trange(1, schedule.T + 1, desc="diffuse", unit="step", disable=None):
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = q_step(schedule, x, t, eps)
        if t in keep:
            points_at[t] = x
    return points_at


class Posterior(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0), whose mean is a combination of x_0 and x_t.

    Attributes:
        weight_x0: Factor of x_0 in the mean.
        weight_x_t: Factor of x_t in the mean.
        variance: Variance of each coordinate.
        beta: Variance of the step itself, q(x_t | x_s).
    """

    weight_x0: float
    weight_x_t: float
    variance: float
    beta: float


def posterior(schedule: Schedule, t: float, s: float) -> Posterior:
    """Compute the coefficients of the posterior q(x_s | x_t, x_0).

    With r = alpha_bar_t / alpha_bar_s and beta = 1 - r, the variance of q(x_t | x_s):

        weight_x0 = sqrt(alpha_bar_s) beta / sigma_t^2
        weight_x_t = sqrt(r) sigma_s^2 / sigma_t^2
        variance = beta sigma_s^2 / sigma_t^2

    Args:
        schedule: Supplies alpha_bar.
        t: Current time, in (0, T].
        s: Earlier time, in [0, t). For s = 0 the posterior is x_0 itself, without variance.

    Raises:
        ValueError: If not 0 <= s < t <= T.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.1).double())
        >>> q = posterior(schedule, 1, 0)
        >>> q.weight_x0, q.weight_x_t, q.variance
        (1.0, 0.0, 0.0)

    References:
        Ho et al. 2020, eq. 6 and 7 (there s = t - 1).
    """
    if not 0 <= s < t <= schedule.T:
        raise ValueError(f"t is {t} and s is {s} but should be 0 <= s < t <= {schedule.T}")
    log_t, log_s = schedule.log_alpha_bar_at(t), schedule.log_alpha_bar_at(s)
    beta = -math.expm1(log_t - log_s)
    # abs instead of a minus sign, which would give -0.0 at s = 0.
    var_t, var_s = -math.expm1(log_t), abs(math.expm1(log_s))
    return Posterior(
        weight_x0=math.exp(log_s / 2) * beta / var_t,
        weight_x_t=math.exp((log_t - log_s) / 2) * var_s / var_t,
        variance=beta * var_s / var_t,
        beta=beta,
    )


def prior_gap(schedule: Schedule, x0: Batch) -> Float[Tensor, " *leading"]:
    """Compute KL(q(x_T | x_0) || N(0, I)) for each x_0: how far x_T is from pure noise.

    With d coordinates it is (d (sigma_T^2 - 1 - log sigma_T^2) + alpha_bar_T |x_0|^2) / 2.

    Args:
        schedule: Supplies alpha_bar_T.
        x0: Clean points, model units.

    Returns:
        The divergence in nats for each point, float64.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((100,), 0.1).double())
        >>> bool((prior_gap(schedule, torch.ones(3, 2)) < 1e-4).all())
        True

    References:
        Ho et al. 2020, L_T in eq. 5.
    """
    log_alpha_bar = float(schedule.log_alpha_bar[-1])
    alpha_bar, log_variance = math.exp(log_alpha_bar), math.log(-math.expm1(log_alpha_bar))
    squared = x0.double().flatten(1).square().sum(1)
    d = math.prod(x0.shape[1:])
    return (d * (-alpha_bar - log_variance) + alpha_bar * squared) / 2
