"""Has a model learned the distribution, or memorised the training points?

Two optimal denoisers are known exactly: that of the distribution (the truth), and that of the
training sample, which is the posterior mean of points drawn from a list. At each t, the position
of the model between the first (0) and the second (1) is

    share_t = (to_truth + truth_to_sample - to_sample) / (2 truth_to_sample)

where each term is a mean squared distance between two x0_hat at the same x_t. It is the projection
of the model's error on the difference between the two optima, so an error in any other direction
leaves it unchanged. The share of a range of t is the mean over its times. A model that memorises
also gives its training points a higher likelihood than test points: `gap`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import in_parallel, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import q_sample
from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
OtherPoints = Float64[Tensor, "m 2"]
ByTimeAndPoint = Float64[Tensor, "times n"]


class Comparison(NamedTuple):
    """Squared distances between three denoisers at the same x_t, for each time and point.

    Attributes:
        times: Times in 1 ... T, ascending.
        to_truth: Distance from the model to the optimal denoiser of the distribution.
        to_sample: Distance from the model to the optimal denoiser of the training sample.
        truth_to_sample: Distance between the two optimal denoisers.
    """

    times: Sequence[int]
    to_truth: ByTimeAndPoint
    to_sample: ByTimeAndPoint
    truth_to_sample: ByTimeAndPoint

    def shares(self) -> tuple[Float64[Tensor, " times"], ByTimeAndPoint]:
        """Share at each time, and what each point contributes to its error, to first order."""
        numerator = (self.to_truth + self.truth_to_sample - self.to_sample) / 2
        scale = self.truth_to_sample.mean(1)
        share = numerator.mean(1) / scale
        return share, (numerator - share[:, None] * self.truth_to_sample) / scale[:, None]

    def columns(self) -> dict[str, list[float]]:
        """Tabulate the mean distances at each time, and the share with its standard error."""
        share, deviations = self.shares()
        return {
            "t": [float(t) for t in self.times],
            "to_truth": self.to_truth.mean(1).tolist(),
            "to_sample": self.to_sample.mean(1).tolist(),
            "truth_to_sample": self.truth_to_sample.mean(1).tolist(),
            "share": share.tolist(),
            "share_se": [mean_of(deviation).se for deviation in deviations],
        }

    def by_range(self) -> dict[str, dict[str, Any]]:
        """Share and verdict of each decade of t: 1 to 9, 10 to 99, and so on up to T."""
        share, deviations = self.shares()
        times = torch.tensor(self.times)
        ratio_to_truth, ratio_to_sample = (
            distance.mean(1) / self.truth_to_sample.mean(1)
            for distance in (self.to_truth, self.to_sample)
        )
        ranges = {}
        for name, first, last in decades(int(times[-1])):
            inside = (first <= times) & (times <= last)
            # The points are independent; the times, which share the points, are not.
            mean = Mean(float(share[inside].mean()), mean_of(deviations[inside].mean(0)).se)
            ratios = float(ratio_to_truth[inside].mean()), float(ratio_to_sample[inside].mean())
            ranges[name] = {"share": mean, "verdict": verdict(mean, *ratios)}
        return ranges


def decades(T: int) -> list[tuple[str, int, int]]:
    """Name, first and last time of each range of t: 1 to 9, 10 to 99, and so on up to T.

    A range that would contain T alone is joined to the one before.
    """
    starts = [10**k for k in range(len(str(T))) if 10**k < max(T, 2)]
    ends = [*(start - 1 for start in starts[1:]), T]
    return [(f"t_{first}_to_{last}", first, last) for first, last in zip(starts, ends, strict=True)]


def measure_memorisation(
    model: ModelUnderTest,
    train: Points,
    test: OtherPoints,
    *,
    n: int,
    times: Sequence[int],
    points: int,
    tolerance: float,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Compare a model with the optimal denoisers of the truth and of its training sample.

    Args:
        model: The model, and the exact distribution.
        train: Training points, model units.
        test: Test points, model units.
        n: Number of training and of test points whose likelihood is computed, at most: of smaller
            sets, all points are used.
        times: Times at which the denoisers are compared, ascending, from 1 to T.
        points: Number of fresh points on which they are compared.
        tolerance: Tolerance of the solver of the probability flow.

    Returns:
        Results: the mean log-likelihoods `train` and `test` (nats, data units), their `gap`, and
        `share` and `verdict` of each range of t. Columns over `t`: `to_truth`, `to_sample`,
        `truth_to_sample`, `share` and `share_se`.
    """
    optimal_for_sample = ExactDistribution.from_points(train, model.schedule).denoiser
    denoisers = (model.denoiser, model.exact.denoiser, optimal_for_sample)
    fresh = model.fresh(points, "measure/memory")
    distances = denoiser_distances(denoisers, fresh, times, seed=model.seed)
    comparison = Comparison(times, *distances.values())

    def likelihood_of(named: tuple[str, Points]) -> tuple[Mean, Mean]:
        name, x0 = named
        x_t = model.noised(x0, model.t, f"measure/memory/{name}")
        values = log_likelihood(model.denoiser, x_t, model.t, tolerance=tolerance)
        # The exact density explains most of the spread over points; the ratio is free of it.
        log_ratios = values - model.exact.log_density(x_t, model.t)
        return mean_of(values + model.scaling.log_jacobian), mean_of(log_ratios)

    sets = {"train": train[:n], "test": test[:n]}
    likelihoods, (of_train, of_test) = zip(*in_parallel(likelihood_of, sets.items()), strict=True)
    gap = Mean(of_train.value - of_test.value, math.hypot(of_train.se, of_test.se))
    results = dict(zip(sets, likelihoods, strict=True)) | {"gap": gap} | comparison.by_range()
    return results, comparison.columns()


def denoiser_distances(
    denoisers: Sequence[Denoiser], x0: Points, times: Sequence[int], *, seed: int
) -> dict[tuple[int, int], ByTimeAndPoint]:
    """Squared distances between the x0_hat of each two of several denoisers, at the same x_t.

    Args:
        denoisers: Denoisers on the same schedule. Each is evaluated once at each time.
        x0: Clean points, model units.
        times: Times in 1 ... T.
        seed: Seed of the noise; the same seed gives the same x_t.

    Returns:
        Squared distance at each time and point, averaged over the coordinates, for each pair of
        positions in `denoisers`: (0, 1), (0, 2) and so on, (1, 2) and so on.
    """
    pairs = list(itertools.combinations(range(len(denoisers)), 2))

    @torch.no_grad()
    def distances_at(t: int) -> Tensor:
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=stream(seed, f"distance/{t}"))
        x_t = q_sample(denoisers[0].schedule, x0, t, eps)
        x0_hats = [denoiser(x_t, t)[0] for denoiser in denoisers]
        squares = [(x0_hats[i] - x0_hats[j]).square().sum(1) for i, j in pairs]
        return torch.stack(squares) / x0.shape[1]

    by_pair = torch.stack(in_parallel(distances_at, times), dim=1)
    return dict(zip(pairs, by_pair, strict=True))


def verdict(share: Mean, ratio_to_truth: float, ratio_to_sample: float) -> str:
    """Describe whether a model follows the distribution or the training sample.

    Args:
        share: Position of the model between the optimal denoisers of truth (0) and sample (1).
        ratio_to_truth: to_truth / truth_to_sample.
        ratio_to_sample: to_sample / truth_to_sample.
    """
    if min(ratio_to_truth, ratio_to_sample) > 1:
        return "far from both: the model's own error is larger than what could be memorised"
    if share.value + 2 * share.se < 1 / 3:
        return "learned the distribution"
    if share.value - 2 * share.se > 2 / 3:
        return "memorised the sample"
    return "between the two"
