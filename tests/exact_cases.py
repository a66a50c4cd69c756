"""Data whose every number is known in closed form: a Gaussian, as a curve that is one point."""

import math
from dataclasses import dataclass

import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.datasets import Curve, Scaling
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.schedules import Schedule
from ddpm.subject import Subject
from ddpm.truth import Truth


@dataclass(frozen=True)
class Dot(Curve):
    """A curve that stays at (0, 0), with the extent of the unit square."""

    @property
    def extent(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return -torch.ones(2).double(), torch.ones(2).double()


DOT = Dot(raw=lambda u: torch.zeros(len(u), 2).double(), u_min=0.0, u_max=1.0)
# Data of N((0, 0), 0.6^2 I) in data units; in model units N((0.5, -0.25), 0.3^2 I).
SCALING = Scaling(torch.tensor([-1.0, 0.5]).double(), 2.0)
NOISE = 0.6
MEAN, STD = torch.tensor([0.5, -0.25]).double(), 0.3


def gaussian_truth(schedule: Schedule, noise: float = NOISE) -> Truth:
    return Truth.of_curves([(1.0, DOT)], noise, SCALING, schedule)


def gaussian_log_density(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    squared = (x - mean).square().sum(1)
    return -squared / (2 * variance) - math.log(2 * math.pi * variance)


def gaussian_subject(
    model: Denoiser | None = None, T: int = 200, noise: float = NOISE, name: str = "linear"
) -> Subject:
    """Gaussian data and a model of them, at first the exact one."""
    truth = gaussian_truth(shipped_schedule(name, T), noise)
    return Subject(model or truth.denoiser, truth, SCALING, noise, seed=0)


def model_density(truth: Truth) -> tuple[Tensor, float]:
    """Mean and standard deviation of what the exact flow of Gaussian data makes of N(0, I).

    Along the flow a point keeps its place in units of the standard deviation:
    x_T = g (x_0 - mean) + a_T mean, with g the ratio of the two.
    """
    a, sigma = truth.schedule.levels(truth.schedule.T)
    g = math.sqrt(a**2 * truth.noise**2 + sigma**2) / truth.noise
    return MEAN - a * MEAN / g, 1 / g


def shifted(denoiser: Denoiser, prediction: str, by: float) -> Denoiser:
    """A model of a prediction type that adds a constant to the right answer."""
    kind = PREDICTIONS[prediction]

    def function(x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.schedule.levels(float(t))
        return kind.target(*denoiser(x, float(t)), *levels) + by

    return Denoiser(function, kind, denoiser.schedule, torch.float64)
