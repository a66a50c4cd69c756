"""What there is to measure of a model whose truth is known; each function is one group of numbers.

    KL(truth || model) = E_truth [log p_t(x_t) - log q_t(x_t)]

estimated from the paired log-ratios of fresh true points, at t = 0 where there is a density.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.denoising import Denoising, distance_between
from ddpm.likelihood import log_likelihood
from ddpm.metrics import Mean, mean_of, ratio_of
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.subject import Subject
from ddpm.truth import Truth

Points = Float64[Tensor, "n 2"]
OtherPoints = Float64[Tensor, "m 2"]
PerPoint = Float64[Tensor, " n"]
Fields = dict[str, Float64[Tensor, "..."]]


def log_spaced(T: int, most: int) -> list[int]:
    """Whole times from 1 to T, at most so many, as evenly spaced in log t as they can be."""
    return sorted({round(T ** (k / (most - 1))) for k in range(most)})


def denoising_by_time(measured: Denoising, T: int, rows: int) -> dict[str, list[float]]:
    """The curves over t as columns: a row is the mean over the times from its own to the next."""
    starts = log_spaced(T, rows)
    spans = [slice(a - 1, b - 1) for a, b in itertools.pairwise([*starts, T + 1])]
    columns = {
        **measured.by_time._asdict(),
        "excess_nats": measured.nats_by_time,
        "bound_nats": measured.bound_by_time,
    }
    means = {
        name: [float(column[span].mean()) for span in spans] for name, column in columns.items()
    }
    return {"t": [float(t) for t in starts], **means}


def denoising_totals(measured: Denoising) -> dict[str, Mean]:
    """Errors weighted as in training, and the excess weighted as in the bound."""
    totals = {name: mean_of(values) for name, values in measured.by_point._asdict().items()}
    return totals | {"excess_nats": mean_of(measured.nats_by_point)}


def bound_totals(measured: Denoising, subject: Subject) -> dict[str, Any]:
    """The variational bound on -log p(x_0) in data units: the model's, its terms, and the best."""
    shift = subject.scaling.log_jacobian
    bound, best = measured.bound, measured.best_bound
    return {
        "bound": mean_of(bound.total - shift),
        "bound_terms": {
            "prior": mean_of(bound.prior),
            "steps": mean_of(bound.steps),
            # What turns model units into data units belongs to the density of x_0.
            "decoder": mean_of(bound.decoder - shift),
        },
        "best_bound": mean_of(best.total - shift),
    }


def likelihood(subject: Subject, *, n: int, n_exact: int, tolerance: float) -> dict[str, Any]:
    """Likelihood of fresh true points, KL(truth || model), and the check of the whole chain.

    Args:
        subject: Model and truth.
        n: Points of the model.
        n_exact: How many of them also go through the exact denoiser and through half the tolerance.
        tolerance: Of the solver.

    Returns:
        nll, entropy and kl in nats and data units, all at time `t`; `exact_kl`, the same with the
        exact denoiser in the network's place: it checks the whole chain, and is what x_T lacks of
        N(0, I), which no model can mend, and the solver's error; `solver_error`, by how much half
        the tolerance moves each.
    """
    x0 = subject.fresh(n, "measure/likelihood")
    t, shift = subject.t, subject.scaling.log_jacobian
    x_t = subject.noised(x0, t, "measure/likelihood")
    few = x_t[:n_exact]

    def of(denoiser: Denoiser, points: Points, tolerance: float) -> PerPoint:
        return log_likelihood(denoiser, points, t, tolerance=tolerance)

    truth, model = subject.truth.log_density(x_t, t), of(subject.denoiser, x_t, tolerance)
    exact = of(subject.truth.denoiser, few, tolerance)
    halved = {
        "network": of(subject.denoiser, few, tolerance / 2) - model[:n_exact],
        "exact": of(subject.truth.denoiser, few, tolerance / 2) - exact,
    }
    return {
        "t": t,
        "nll": mean_of(-model - shift),
        "entropy": mean_of(-truth - shift),
        "kl": mean_of(truth - model),
        "exact_kl": mean_of(truth[:n_exact] - exact),
        "solver_error": {name: abs(float(moved.mean())) for name, moved in halved.items()},
    }


def memory(
    subject: Subject,
    train: Points,
    test: OtherPoints,
    *,
    n: int,
    times: Sequence[int],
    points: int,
    tolerance: float,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Has the model learned the distribution, or the training points?

    The best denoiser of the training sample is exact too: it is the truth of points drawn from a
    list. On the way from the truth's best denoiser (0) to the sample's (1) the model stands at

        share = (to_truth + truth_to_sample - to_sample) / (2 truth_to_sample)

    by squared distances of x0_hat. Over t they are weighted by snr_t, as the bound weights them per
    unit of log t. A model that remembers also finds its training points more likely: `gap`.

    Args:
        subject: Model and truth.
        train: Training points, model units.
        test: Test points, model units.
        n: How many of each to find the likelihood of.
        times: At which to compare the denoisers, evenly spaced in log t.
        points: Fresh points to compare them on.
        tolerance: Of the solver.

    Returns:
        Numbers and the verdict; and the distances over t as columns.
    """
    by_heart = Truth.of_points(train, subject.denoiser.schedule).denoiser
    best, fresh = subject.truth.denoiser, subject.fresh(points, "measure/memory")
    pairs = {
        "to_truth": (subject.denoiser, best),
        "to_sample": (subject.denoiser, by_heart),
        "truth_to_sample": (best, by_heart),
    }
    distances = {
        name: distance_between(*pair, PREDICTIONS["x0"], fresh, times, seed=subject.seed)
        for name, pair in pairs.items()
    }
    weights = subject.denoiser.schedule.log_snr[list(times)].exp()
    weighted = {name: weights @ values for name, values in distances.items()}
    way = 2 * weighted["truth_to_sample"]
    share = ratio_of(weighted["to_truth"] + way / 2 - weighted["to_sample"], way)
    found, ratios = {}, {}
    for name, some in (("train", train[:n]), ("test", test[:n])):
        x_t = subject.noised(some, subject.t, f"measure/memory/{name}")
        model = log_likelihood(subject.denoiser, x_t, subject.t, tolerance=tolerance)
        found[name] = mean_of(model + subject.scaling.log_jacobian)
        # Beside the truth's own density most of the points' own spread cancels.
        ratios[name] = mean_of(model - subject.truth.log_density(x_t, subject.t))
    gap = Mean(
        ratios["train"].value - ratios["test"].value,
        math.hypot(ratios["train"].se, ratios["test"].se),
    )
    columns = {name: values.mean(1) for name, values in distances.items()}
    nearer_sample = (columns["to_sample"] < columns["to_truth"]).tolist()
    followed = [t for t, nearer in zip(times, nearer_sample, strict=True) if nearer]
    off = {name: float(values.mean()) for name, values in weighted.items()}
    said = verdict(share, off["to_truth"] / off["truth_to_sample"], followed)
    return {**found, "gap": gap, "share": share, "verdict": said}, {
        "t": [float(t) for t in times],
        **{name: values.tolist() for name, values in columns.items()},
    }


def verdict(share: Mean, off: float, followed: Sequence[int]) -> str:
    """In words: has it learned the distribution or memorised the sample?

    Args:
        share: Where the model stands between the best denoisers of truth (0) and sample (1).
        off: Its squared distance from the truth's, in units of that between the two.
        followed: Times at which it is nearer to the sample's.
    """
    if min(off, off + 1 - 2 * share.value) > 1:
        word = "far from both: neither learned nor memorised"
    elif share.value + 2 * share.se < 1 / 3:
        word = "learned the distribution"
    elif share.value - 2 * share.se > 2 / 3:
        word = "memorised the sample"
    else:
        word = "between the two"
    line = f"{word} ({share.value:.2f} ± {share.se:.2f} of the way from truth to sample)"
    return line + (f"; nearer the sample from t = {min(followed)} on" if followed else "")


def score_fields(subject: Subject, times: Sequence[float], *, reach: float, grid: int) -> Fields:
    """sigma_t times the score, which is -eps, of model and truth on a square of model units.

    Args:
        subject: Model and truth.
        times: In (0, T].
        reach: The square is [-reach, reach]^2.
        grid: Points along each side.

    Returns:
        `score_t` (k,), `score_sigma` (k,), `score_at` (grid^2, 2), `score_truth` and `score_model`
        (k, grid^2, 2), and `score_log_density` (k, grid^2), the truth's.
    """
    at = _square(reach, grid)
    with torch.no_grad():
        truth, model = (
            torch.stack([-denoiser(at, t)[1] for t in times])
            for denoiser in (subject.truth.denoiser, subject.denoiser)
        )
    return {
        "score_t": torch.tensor(times, dtype=torch.float64),
        "score_sigma": torch.tensor(
            [subject.denoiser.schedule.levels(t)[1] for t in times], dtype=torch.float64
        ),
        "score_at": at,
        "score_truth": truth,
        "score_model": model,
        "score_log_density": torch.stack([subject.truth.log_density(at, t) for t in times]),
    }


def density_fields(subject: Subject, *, reach: float, grid: int, tolerance: float) -> Fields:
    """Log density of model and truth on a square, nats and data units, at time `t`.

    Args:
        subject: Model and truth.
        reach: The square is [-reach, reach]^2, data units.
        grid: Points along each side.
        tolerance: Of the solver.

    Returns:
        `density_truth` and `density_model`, (grid, grid): rows are y, columns are x.
    """
    at = subject.scaling.to_model(_square(reach, grid))
    shift = subject.scaling.log_jacobian
    truth = subject.truth.log_density(at, subject.t)
    model = log_likelihood(subject.denoiser, at, subject.t, tolerance=tolerance)
    return {
        "density_truth": (truth + shift).reshape(grid, grid),
        "density_model": (model + shift).reshape(grid, grid),
    }


def _square(reach: float, grid: int) -> Points:
    side = torch.linspace(-reach, reach, grid, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), dim=1)
