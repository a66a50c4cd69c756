"""Has a model learned the distribution, or memorised the training points?

Two optimal denoisers are known exactly: that of the distribution (the truth), and that of the
training sample, which is the posterior mean of points drawn from a list. The position of the model
between the first (0) and the second (1) is

    share = (to_truth + truth_to_sample - to_sample) / (2 truth_to_sample)

where each term is a squared distance between two x0_hat. The distances are weighted over t by
snr_t, as the variational bound weights them per unit of log t. A model that memorises also gives
its training points a higher likelihood than test points: `gap`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import in_parallel, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import q_sample
from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean, mean_of, ratio_of
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
OtherPoints = Float64[Tensor, "m 2"]


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
        n: Number of training and of test points whose likelihood is computed.
        times: Times at which the denoisers are compared, evenly spaced in log t.
        points: Number of fresh points on which they are compared.
        tolerance: Tolerance of the solver of the probability flow.

    Returns:
        Results: the mean log-likelihoods `train` and `test` (nats, data units), `gap`, `share` and
        the `verdict`. Columns over `t`: `to_truth`, `to_sample` and `truth_to_sample`.
    """
    memorised_truth = ExactDistribution.from_points(train, model.schedule).denoiser
    exact, fresh = model.exact.denoiser, model.fresh(points, "measure/memory")
    pairs = {
        "to_truth": (model.denoiser, exact),
        "to_sample": (model.denoiser, memorised_truth),
        "truth_to_sample": (exact, memorised_truth),
    }
    distances = {
        name: denoiser_distance(*pair, fresh, times, seed=model.seed)
        for name, pair in pairs.items()
    }
    weights = model.schedule.log_snr[list(times)].exp()
    weighted = {name: weights @ values for name, values in distances.items()}
    denominator = 2 * weighted["truth_to_sample"]
    share = ratio_of(weighted["to_truth"] + denominator / 2 - weighted["to_sample"], denominator)
    log_likelihoods, log_ratios = {}, {}
    for name, x0 in (("train", train[:n]), ("test", test[:n])):
        x_t = model.noised(x0, model.t, f"measure/memory/{name}")
        values = log_likelihood(model.denoiser, x_t, model.t, tolerance=tolerance)
        log_likelihoods[name] = mean_of(values + model.scaling.log_jacobian)
        # The exact density explains most of the spread over points; the ratio is free of it.
        log_ratios[name] = mean_of(values - model.exact.log_density(x_t, model.t))
    gap = Mean(
        log_ratios["train"].value - log_ratios["test"].value,
        math.hypot(log_ratios["train"].se, log_ratios["test"].se),
    )
    columns = {name: values.mean(1) for name, values in distances.items()}
    is_nearer_sample = (columns["to_sample"] < columns["to_truth"]).tolist()
    nearer_sample = [t for t, nearer in zip(times, is_nearer_sample, strict=True) if nearer]
    means = {name: float(values.mean()) for name, values in weighted.items()}
    relative = means["to_truth"] / means["truth_to_sample"]
    results = {
        **log_likelihoods,
        "gap": gap,
        "share": share,
        "verdict": verdict(share, relative, nearer_sample),
    }
    return results, {
        "t": [float(t) for t in times],
        **{name: values.tolist() for name, values in columns.items()},
    }


def denoiser_distance(
    first: Denoiser, second: Denoiser, x0: Points, times: Sequence[int], *, seed: int
) -> Float64[Tensor, "times n"]:
    """Squared distance between the x0_hat of two denoisers at the same x_t.

    Args:
        first: A denoiser.
        second: Another, on the same schedule.
        x0: Clean points, model units.
        times: Times in 1 ... T.
        seed: Seed of the noise; the same seed gives the same x_t.

    Returns:
        Squared distance at each time and point, averaged over the coordinates.
    """

    @torch.no_grad()
    def distance_at(t: int) -> Tensor:
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=stream(seed, f"distance/{t}"))
        x_t = q_sample(first.schedule, x0, t, eps)
        (first_x0, _), (second_x0, _) = first(x_t, t), second(x_t, t)
        return (first_x0 - second_x0).square().sum(1) / x0.shape[1]

    return torch.stack(in_parallel(distance_at, times))


def verdict(share: Mean, relative: float, nearer_sample: Sequence[int]) -> str:
    """Describe whether a model has learned the distribution or memorised the sample.

    Args:
        share: Position of the model between the optimal denoisers of truth (0) and sample (1).
        relative: to_truth / truth_to_sample.
        nearer_sample: Times at which the model is nearer to the sample's optimal denoiser.
    """
    # By the definition of the share, this is to_sample / truth_to_sample.
    relative_to_sample = relative + 1 - 2 * share.value
    if min(relative, relative_to_sample) > 1:
        conclusion = "far from both: neither learned nor memorised"
    elif share.value + 2 * share.se < 1 / 3:
        conclusion = "learned the distribution"
    elif share.value - 2 * share.se > 2 / 3:
        conclusion = "memorised the sample"
    else:
        conclusion = "between the two"
    sentence = f"{conclusion} ({share.value:.2f} ± {share.se:.2f} of the way from truth to sample)"
    if nearer_sample:
        sentence += f"; nearer the sample from t = {min(nearer_sample)} on"
    return sentence
