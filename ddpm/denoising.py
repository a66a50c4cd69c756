"""How well a model denoises, beside the best that is possible, at every t; and what it adds up to.

With the same x_t for both, and in the units of the model's own prediction:

    loss    = E |said - target|^2 / 2        (the mean over the two coordinates)
    optimal = E |E[target | x_t] - target|^2 / 2
    excess  = E |said - E[target | x_t]|^2 / 2

and loss = optimal + excess in expectation. Weighted as the likelihood weights them, the same errors
make the variational bound of the discrete model:

    -log p(x_0) <= L_T + sum_{t = 2}^T L_{t-1} + L_0
    L_T     = KL(q(x_T | x_0) || N(0, I))
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
            = (snr_{t-1} - snr_t) |x_0 - x0_hat|^2 / 2, with the posterior's variance
    L_0     = -log N(x_0; x0_hat(x_1, 1), I / snr_1)

L_0's decoder is a Gaussian with the variance that x_1 leaves of x_0 where the data are flat.

References:
    Ho et al. 2020, eq. 5, https://arxiv.org/abs/2006.11239
    Nichol & Dhariwal 2021, eq. 4 to 7, https://arxiv.org/abs/2102.09672
    Kingma et al. 2021, eq. 13 (the weights as differences of snr), https://arxiv.org/abs/2107.00630
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.process import Denoiser, Prediction, prior_gap, q_sample
from ddpm.runtime import in_parallel, stream

Points = Float64[Tensor, "n 2"]
# At t = 1 ... T.
PerTime = Float64[Tensor, " times"]
PerPoint = Float64[Tensor, " n"]

_BLOCK = 250


class Errors(NamedTuple):
    """Mean squared errors, at each time or for each point, in units of the prediction."""

    loss: Tensor
    optimal: Tensor
    excess: Tensor


class Bound(NamedTuple):
    """Terms of the variational bound for each point, nats: L_T, the sum of L_{t-1}, and L_0."""

    prior: PerPoint
    steps: PerPoint
    decoder: PerPoint

    @property
    def total(self) -> PerPoint:
        """The bound on -log p(x_0), with respect to model units."""
        return self.prior + self.steps + self.decoder


@dataclass(frozen=True)
class Denoising:
    """What `denoise` measures.

    Attributes:
        by_time: Errors at t = 1 ... T, means over the points.
        by_point: Errors of each point, means over t: weighted as training weights them.
        nats_by_time: What the excess at each t adds to the bound; means over the points.
        nats_by_point: What the excess of each point, at all t together, adds to the bound.
        bound_by_time: L_{t-1} of the model, L_0 at t = 1; means over the points.
        bound: Of the model.
        best_bound: Of the best denoiser, with the same decoder.
    """

    by_time: Errors
    by_point: Errors
    nats_by_time: PerTime
    nats_by_point: PerPoint
    bound_by_time: PerTime
    bound: Bound
    best_bound: Bound


class _Sums(NamedTuple):
    """Of a block of points: sums over them, and what each has gathered over time.

    The weighted columns are of the model and of the best; at t = 1 (the decoder's) and after.
    """

    by_time: Float64[Tensor, "times 3"]
    nats_by_time: PerTime
    bound_by_time: PerTime
    by_point: Float64[Tensor, "block 3"]
    nats_by_point: Float64[Tensor, " block"]
    first: Float64[Tensor, "block 2"]
    later: Float64[Tensor, "block 2"]


def denoise(denoiser: Denoiser, best: Denoiser, x0: Points, *, seed: int) -> Denoising:
    """Denoise every point at every t = 1 ... T, each time with new noise.

    Args:
        denoiser: The model's.
        best: The exact truth's, on the same schedule.
        x0: Fresh true points, model units.
        seed: Of the noise; each block of points has its own stream.

    Returns:
        Errors and bounds. Points are independent, times are not: standard errors come from the
        values of the points.
    """
    schedule = denoiser.schedule
    blocks = x0.split(_BLOCK)
    with tqdm(total=len(blocks) * schedule.T, desc="denoise", unit="step", disable=None) as bar:

        def one(numbered: tuple[int, Points]) -> _Sums:
            number, block = numbered
            generator = stream(seed, f"denoise/{number}")
            return _denoise(denoiser, best, block, generator=generator, tick=bar.update)

        done = in_parallel(one, enumerate(blocks))
    parts = list(zip(*done, strict=True))
    by_time, nats_by_time, bound_by_time = (sum(part) / len(x0) for part in parts[:3])
    by_point, nats_by_point, first, later = (torch.cat(part) for part in parts[3:])
    log_variance = -float(schedule.log_snr[1])
    constant = x0.shape[1] * (math.log(2 * math.pi) + log_variance) / 2
    bound_by_time[0] += constant
    prior = prior_gap(schedule, x0)
    bounds = [Bound(prior, later[:, k], constant + first[:, k]) for k in (0, 1)]
    return Denoising(
        Errors(*by_time.unbind(1)),
        Errors(*(by_point / schedule.T).unbind(1)),
        nats_by_time,
        nats_by_point,
        bound_by_time,
        *bounds,
    )


@torch.no_grad()
def _denoise(
    denoiser: Denoiser,
    best: Denoiser,
    x0: Points,
    *,
    generator: torch.Generator,
    tick: Callable[[], object],
) -> _Sums:
    schedule, prediction = denoiser.schedule, denoiser.prediction
    snr = schedule.log_snr.exp()
    sums = _Sums(
        torch.zeros(schedule.T, 3).double(),
        torch.zeros(schedule.T).double(),
        torch.zeros(schedule.T).double(),
        torch.zeros(len(x0), 3).double(),
        torch.zeros(len(x0)).double(),
        torch.zeros(len(x0), 2).double(),
        torch.zeros(len(x0), 2).double(),
    )
    for t in range(1, schedule.T + 1):
        a, sigma = schedule.levels(t)
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator)
        x_t = q_sample(schedule, x0, t, eps)
        said, (best_x0, best_eps) = denoiser.predict(x_t, t), best(x_t, t)
        target = prediction.target(x0, eps, a, sigma)
        optimum = prediction.target(best_x0, best_eps, a, sigma)
        pairs = ((said, target), (optimum, target), (said, optimum))
        errors = torch.stack([_squared(*pair) for pair in pairs], dim=1) / x0.shape[1]
        sums.by_time[t - 1] = errors.sum(0)
        sums.by_point.add_(errors)

        # snr_0 is infinite: in its place, the decoder's quadratic part has the weight snr_1 / 2.
        weight = float(snr[t - 1] - snr[t] if t > 1 else snr[1]) / 2
        x0_hat, _ = prediction.split(said, x_t, a, sigma)
        nats = weight * torch.stack([_squared(x0, x0_hat), _squared(x0, best_x0)], dim=1)
        (sums.later if t > 1 else sums.first).add_(nats)
        sums.bound_by_time[t - 1] = nats[:, 0].sum()
        excess = weight * _squared(x0_hat, best_x0)
        sums.nats_by_point.add_(excess)
        sums.nats_by_time[t - 1] = excess.sum()
        tick()
    return sums


def distance_between(
    one: Denoiser,
    other: Denoiser,
    prediction: Prediction,
    x0: Points,
    times: Sequence[int],
    *,
    seed: int,
) -> Float64[Tensor, "times n"]:
    """Squared distance between what two denoisers say of the same x_t, at some times.

    Args:
        one: A denoiser.
        other: Another, on the same schedule.
        prediction: In whose units: what the two say of eps, x0 or v.
        x0: Clean points, model units.
        times: In 1 ... T.
        seed: Of the noise: the same seed gives the same x_t.

    Returns:
        Means over the coordinates, for each time and point.
    """

    @torch.no_grad()
    def at(t: int) -> Tensor:
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=stream(seed, f"distance/{t}"))
        x_t = q_sample(one.schedule, x0, t, eps)
        levels = one.schedule.levels(t)
        said = [prediction.target(*denoiser(x_t, t), *levels) for denoiser in (one, other)]
        return _squared(*said) / x0.shape[1]

    return torch.stack(in_parallel(at, times))


def _squared(one: Points, other: Points) -> PerPoint:
    return (one - other).square().sum(1)
