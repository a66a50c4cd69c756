"""A model of points whose distribution is not known, measured against held-out points.

Without the exact distribution there is no divergence from the truth. What is left is the likelihood
of points that the model has not seen, and by how much that of its training points is higher; and
distances of its samples from the held-out points. Their floors are distances between sets that are
drawn, with replacement, from the held-out points, which stand for the distribution here.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.params import MeasureSamplesSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.flow.likelihood import log_likelihood
from ddpm.networks.model_file import TrainedModel
from ddpm.reference.distances import DISTANCES
from ddpm.reference.estimates import Estimate, Mean, estimate_distances, mean_of

Points = Float64[Tensor, "n 2"]
OtherPoints = Float64[Tensor, "m 2"]
Labels = Int64[Tensor, " n"]


class Labelled(NamedTuple):
    """Points in data units, and the label of each: all 0 if there are none."""

    points: Tensor
    labels: Tensor


def held_out_likelihood(
    model: TrainedModel, train: Labelled, test: Labelled, *, n: int, tolerance: float
) -> dict[str, Mean]:
    """Compare the likelihoods of training and of test points, given their labels if they have any.

    Args:
        model: The model.
        train: Its training points.
        test: Points that it has not seen.
        n: Number of points of each, at most.
        tolerance: Tolerance of the solver of the probability flow.

    Returns:
        `nll`, the mean negative log-likelihood of the test points in nats, data units, and
        `nll_train`, that of the training points; and `gap`, by how much the test points are less
        likely: 0 for a model that has not memorised any.
    """

    def surprise(points: Labelled) -> Mean:
        x = model.scaling.to_model(points.points[:n])
        labels = points.labels[:n]
        values = torch.empty(len(x), dtype=torch.float64)
        for label in labels.unique().tolist():
            mine = labels == label
            values[mine] = log_likelihood(
                denoiser_of(model, label), x[mine], 0, tolerance=tolerance
            )
        return mean_of(-values - model.scaling.log_jacobian)

    seen, unseen = surprise(train), surprise(test)
    gap = Mean(unseen.value - seen.value, math.hypot(unseen.se, seen.se))
    return {"nll": unseen, "nll_train": seen, "gap": gap}


def denoiser_of(model: TrainedModel, label: int) -> Denoiser:
    """Denoiser of a label, or of everything if the model has none."""
    return model.given(label) if model.classes else model.denoiser


def held_out_distances(
    samples: Points,
    test: OtherPoints,
    settings: MeasureSamplesSettings,
    *,
    seed: int,
    names: Sequence[str] = tuple(DISTANCES),
) -> dict[str, Estimate]:
    """Distances of samples from held-out points, in data units.

    Args:
        samples: Samples of the model.
        test: Held-out points. As many of both are used as there are of either, and at most
            `settings.n`.
        settings: Sizes.
        seed: Seed of the pairs behind the floors.
        names: Names of the distances.
    """
    n = min(len(samples), len(test), settings.n)
    generator = stream(seed, "held_out/pairs")

    def resampled() -> Points:
        return test[torch.randint(len(test), (n,), generator=generator)]

    pairs = [(resampled(), resampled()) for _ in range(settings.null_pairs)]
    estimates: dict[str, Estimate] = {}
    for name in names:
        distance_to = partial(DISTANCES[name], settings=settings)
        estimates |= estimate_distances(distance_to, {name: samples[:n]}, test[:n], pairs)
    return estimates


class DensityImage(NamedTuple):
    """Log density on a square: coordinates along each axis, and rows of y, in data units."""

    x: Float64[Tensor, " k"]
    y: Float64[Tensor, " k"]
    log_density: Float64[Tensor, "k k"]


def model_density(
    model: TrainedModel, *, reach: float, grid: int, tolerance: float
) -> DensityImage:
    """Log density of a model of all labels on the square [-reach, reach]^2 in model units."""
    side = torch.linspace(-reach, reach, grid, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    points = torch.stack((x.flatten(), y.flatten()), dim=1)
    values = log_likelihood(model.denoiser, points, 0, tolerance=tolerance)
    x_side, y_side = model.scaling.to_data(torch.stack((side, side), dim=1)).T
    log_density = (values + model.scaling.log_jacobian).view(grid, grid)
    return DensityImage(x_side, y_side, log_density)
