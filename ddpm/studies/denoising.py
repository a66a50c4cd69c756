"""Denoising error of a model at every t, the least possible error, and the variational bound.

The model and the exact denoiser get the same x_t. In the units of the model's prediction:

    loss    = E |prediction - target|^2 / 2        (the mean over the two coordinates)
    optimal = E |E[target | x_t] - target|^2 / 2
    excess  = E |prediction - E[target | x_t]|^2 / 2

and loss = optimal + excess in expectation. With other weights, the errors of x0_hat add up to the
variational bound of the discrete model:

    -log p(x_0) <= L_T + sum_{t = 2}^T L_{t-1} + L_0
    L_T     = KL(q(x_T | x_0) || N(0, I))
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
            = (snr_{t-1} - snr_t) |x_0 - x0_hat|^2 / 2, with the posterior's variance
    L_0     = -log N(x_0; x0_hat(x_1, 1), I / snr_1)

The decoder in L_0 is a Gaussian with the variance of x_0 given x_1 where the density is flat.

References:
    Ho et al. 2020, eq. 5, https://arxiv.org/abs/2006.11239
    Nichol & Dhariwal 2021, eq. 4 to 7, https://arxiv.org/abs/2102.09672
    Kingma et al. 2021, eq. 13 (the weights as differences of snr), https://arxiv.org/abs/2107.00630
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import prior_gap, q_sample
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
# One value for each of the times t = 1 ... T.
PerTime = Float64[Tensor, " times"]
PerPoint = Float64[Tensor, " n"]

# Times in one task of a thread.
_TIMES = 25


class Errors(NamedTuple):
    """Squared errors in units of the prediction, at each time or for each point."""

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
class DenoisingErrors:
    """Denoising errors and bounds of a model and of the exact denoiser.

    Attributes:
        by_time: Errors at t = 1 ... T, averaged over the points.
        by_point: Errors of each point, averaged over t with equal weights, as in training.
        nats_by_time: What the excess at each t adds to the bound, averaged over the points.
        nats_by_point: What the excess adds to the bound of each point, summed over t.
        bound_by_time: L_{t-1} of the model, and L_0 at t = 1, averaged over the points.
        bound: Bound of the model for each point.
        best_bound: Bound of the exact denoiser, with the same decoder.
    """

    by_time: Errors
    by_point: Errors
    nats_by_time: PerTime
    nats_by_point: PerPoint
    bound_by_time: PerTime
    bound: Bound
    best_bound: Bound


class _Sums(NamedTuple):
    """For some of the times: sums over the points at each, and over these times for each point.

    `decoder` (without its constant) and `steps` are the terms of the bound; their columns are those
    of the model and of the exact denoiser.
    """

    by_time: Float64[Tensor, "times 3"]
    nats_by_time: PerTime
    bound_by_time: PerTime
    by_point: Float64[Tensor, "n 3"]
    nats_by_point: PerPoint
    decoder: Float64[Tensor, "n 2"]
    steps: Float64[Tensor, "n 2"]


def measure_denoising(
    denoiser: Denoiser, exact: Denoiser, x0: Points, *, seed: int
) -> DenoisingErrors:
    """Denoise every point at every t = 1 ... T, each time with new noise.

    Args:
        denoiser: The model's denoiser.
        exact: The exact denoiser, on the same schedule.
        x0: Fresh true points, model units.
        seed: Seed of the noise.

    Returns:
        Errors and bounds. Standard errors should come from the values by point: the points are
        independent, the times are not.
    """
    schedule = denoiser.schedule
    with tqdm(total=schedule.T, desc="denoise", unit="step", disable=None) as bar:

        def denoise_at(times: range) -> _Sums:
            generator = stream(seed, f"denoise/{times[0]}")
            return _denoise(denoiser, exact, x0, times, generator=generator, tick=bar.update)

        times = range(1, schedule.T + 1)
        sums = in_parallel(
            denoise_at, [times[k : k + _TIMES] for k in range(0, len(times), _TIMES)]
        )
    parts = list(zip(*sums, strict=True))
    by_time, nats_by_time, bound_by_time = (torch.cat(part) / len(x0) for part in parts[:3])
    by_point, nats_by_point, decoder, steps = (torch.stack(part).sum(0) for part in parts[3:])
    log_variance = -float(schedule.log_snr[1])
    constant = x0.shape[1] * (math.log(2 * math.pi) + log_variance) / 2
    bound_by_time[0] += constant
    prior = prior_gap(schedule, x0)
    bounds = [Bound(prior, steps[:, k], constant + decoder[:, k]) for k in (0, 1)]
    return DenoisingErrors(
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
    exact: Denoiser,
    x0: Points,
    times: range,
    *,
    generator: torch.Generator,
    tick: Callable[[], object],
) -> _Sums:
    schedule, kind = denoiser.schedule, denoiser.prediction
    snr = schedule.log_snr.exp()
    sums = _Sums(
        torch.zeros(len(times), 3).double(),
        torch.zeros(len(times)).double(),
        torch.zeros(len(times)).double(),
        torch.zeros(len(x0), 3).double(),
        torch.zeros(len(x0)).double(),
        torch.zeros(len(x0), 2).double(),
        torch.zeros(len(x0), 2).double(),
    )
    for k, t in enumerate(times):
        a, sigma = schedule.levels(t)
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator)
        x_t = q_sample(schedule, x0, t, eps)
        prediction, (exact_x0, exact_eps) = denoiser.predict(x_t, t), exact(x_t, t)
        target = kind.target(x0, eps, a, sigma)
        exact_prediction = kind.target(exact_x0, exact_eps, a, sigma)
        # In the order of `Errors`.
        pairs = ((prediction, target), (exact_prediction, target), (prediction, exact_prediction))
        errors = torch.stack([_squared(*pair) for pair in pairs], dim=1) / x0.shape[1]
        sums.by_time[k] = errors.sum(0)
        sums.by_point.add_(errors)

        # snr_0 is infinite; instead, the quadratic part of the decoder has the weight snr_1 / 2.
        weight = float(snr[t - 1] - snr[t] if t > 1 else snr[1]) / 2
        x0_hat, _ = kind.split(prediction, x_t, a, sigma)
        nats = weight * torch.stack([_squared(x0, x0_hat), _squared(x0, exact_x0)], dim=1)
        (sums.steps if t > 1 else sums.decoder).add_(nats)
        sums.bound_by_time[k] = nats[:, 0].sum()
        excess = weight * _squared(x0_hat, exact_x0)
        sums.nats_by_point.add_(excess)
        sums.nats_by_time[k] = excess.sum()
        tick()
    return sums


def log_spaced(T: int, count: int) -> list[int]:
    """Whole times from 1 to T, at most `count`, as evenly spaced in log t as possible."""
    return sorted({round(T ** (k / (count - 1))) for k in range(count)})


def denoising_by_time(errors: DenoisingErrors, T: int, rows: int) -> dict[str, list[float]]:
    """Tabulate the curves over t; each row is the mean from its time up to the next row's."""
    starts = log_spaced(T, rows)
    spans = [slice(a - 1, b - 1) for a, b in itertools.pairwise([*starts, T + 1])]
    columns = {
        **errors.by_time._asdict(),
        "excess_nats": errors.nats_by_time,
        "bound_nats": errors.bound_by_time,
    }
    means = {
        name: [float(column[span].mean()) for span in spans] for name, column in columns.items()
    }
    return {"t": [float(t) for t in starts], **means}


def denoising_totals(errors: DenoisingErrors) -> dict[str, Mean]:
    """Average the errors over points and times, and the excess with the weights of the bound."""
    totals = {name: mean_of(values) for name, values in errors.by_point._asdict().items()}
    return totals | {"excess_nats": mean_of(errors.nats_by_point)}


def bound_totals(errors: DenoisingErrors, model: ModelUnderTest) -> dict[str, Any]:
    """Average the bound on -log p(x_0), its terms, and the best bound, all in data units."""
    shift = model.scaling.log_jacobian
    bound, best = errors.bound, errors.best_bound
    return {
        "bound": mean_of(bound.total - shift),
        "bound_terms": {
            "prior": mean_of(bound.prior),
            "steps": mean_of(bound.steps),
            # The change from model to data units belongs to the density of x_0.
            "decoder": mean_of(bound.decoder - shift),
        },
        "best_bound": mean_of(best.total - shift),
    }


def _squared(x: Points, y: Points) -> PerPoint:
    return (x - y).square().sum(1)
