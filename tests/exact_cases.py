"""Data whose every number is known in closed form: a Gaussian, as a curve that is one point."""

import math
from typing import ClassVar

import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.data.curves import Curve
from ddpm.data.datasets import Dataset, Part
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.model_under_test import ModelUnderTest

DOT = Curve(lambda u: torch.zeros(len(u), 2).double(), 0.0, 1.0, frame=((-1, -1), (1, 1)))


class GaussianDataset(Dataset):
    """N((0, 0), noise^2 I)."""

    parts: ClassVar[tuple[Part, ...]] = (Part(1.0, DOT),)


# Data of N((0, 0), 0.6^2 I) in data units; in model units N((0.5, -0.25), 0.3^2 I).
SCALING = Scaling(torch.tensor([-1.0, 0.5]).double(), 2.0)
NOISE = 0.6
MEAN, STD = torch.tensor([0.5, -0.25]).double(), 0.3


def gaussian_distribution(schedule: Schedule, noise: float = NOISE) -> ExactDistribution:
    return ExactDistribution.from_dataset(GaussianDataset(noise=noise), SCALING, schedule)


def gaussian_log_density(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    squared = (x - mean).square().sum(1)
    return -squared / (2 * variance) - math.log(2 * math.pi * variance)


def gaussian_model(
    denoiser: Denoiser | None = None, T: int = 200, noise: float = NOISE, name: str = "linear"
) -> ModelUnderTest:
    """Gaussian data with a model of them; by default the exact denoiser."""
    exact = gaussian_distribution(shipped_schedule(name, T), noise)
    dataset = GaussianDataset(noise=noise)
    return ModelUnderTest(denoiser or exact.denoiser, exact, dataset, SCALING, seed=0)


def model_density(exact: ExactDistribution) -> tuple[Tensor, float]:
    """Mean and standard deviation of what the exact flow of Gaussian data makes of N(0, I).

    Along the flow a point keeps its place in units of the standard deviation:
    x_T = g (x_0 - mean) + a_T mean, with g the ratio of the two.
    """
    a, sigma = exact.schedule.levels(exact.schedule.T)
    g = math.sqrt(a**2 * exact.noise**2 + sigma**2) / exact.noise
    return MEAN - a * MEAN / g, 1 / g


def shifted(denoiser: Denoiser, prediction: str, by: float) -> Denoiser:
    """A model of a prediction type that adds a constant to the right answer."""
    kind = PREDICTIONS[prediction]

    def function(x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.schedule.levels(float(t))
        return kind.target(*denoiser(x, float(t)), *levels) + by

    return Denoiser(function, kind, denoiser.schedule, torch.float64)
