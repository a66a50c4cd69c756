"""Measures against held-out points, on models whose output is known."""

import math

import pytest
import torch
from torch import Tensor

import ddpm
from ddpm.core.compute import stream
from ddpm.core.params import MeasureSamplesSettings, TrainSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.networks import model_file
from ddpm.networks.model_file import TrainedModel
from ddpm.studies.held_out import (
    Labelled,
    held_out_distances,
    held_out_likelihood,
    model_density,
)

SETTINGS = MeasureSamplesSettings(n=1000, null_pairs=20, directions=16)
SCHEDULE = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
# Half as wide as the points would be without scaling.
SCALING = ddpm.Scaling(torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5)


# Means of the data of each label, and of all of them, in model units.
MEANS = {0: (0.0, 0.0), 1: (1.0, -0.5), None: (1.0, 0.5)}


def gaussian(label: int | None) -> Denoiser:
    """The exact denoiser of N(mean, I) in model units."""
    mean = torch.tensor(MEANS[label], dtype=torch.float64)

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        # E[x_0 | x_t] = mean + a (x_t - a mean) and E[eps | x_t] = sigma (x_t - a mean).
        _, sigma = SCHEDULE.levels(float(t))
        return 0 * x_t - sigma * mean

    return Denoiser(velocity, PREDICTIONS["v"], SCHEDULE, torch.float64)


class Gaussians(TrainedModel):
    """Exact denoisers in the place of a trained network."""

    def given(self, label: int | None) -> Denoiser:
        return gaussian(label)


def model_with(*classes: str, shown: bool = True) -> TrainedModel:
    source = model_file.PointFile(path="points.csv", classes=classes)
    train = TrainSettings.model_construct(drop_label=0.2 if shown else None)
    description = model_file.ModelDescription.model_construct(seed=0, train=train)
    return Gaussians(description, gaussian(None), source, SCALING)


def points(n: int, name: str, mean: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    x = torch.randn(n, 2, dtype=torch.float64, generator=stream(0, name))
    return SCALING.to_data(x + torch.tensor(mean).double())


def labelled(n: int, name: str) -> Labelled:
    """Points of both labels in turn."""
    labels = torch.arange(n) % 2
    both = torch.stack([points(n, name, MEANS[label]) for label in (0, 1)])
    return Labelled(both[labels, torch.arange(n)], labels)


def unlabelled(n: int, name: str) -> Labelled:
    return Labelled(points(n, name, MEANS[None]), torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("labels", [True, False])
def test_the_likelihood_is_that_of_the_distribution_in_data_units(labels: bool) -> None:
    model = model_with("a", "b", shown=labels)
    train, test = ((labelled if labels else unlabelled)(4000, name) for name in ("train", "test"))
    measured = held_out_likelihood(model, train, test, n=2000, tolerance=1e-4)
    entropy = math.log(2 * math.pi * math.e * 0.25)
    for name in ("nll", "nll_train"):
        assert measured[name].value == pytest.approx(entropy, abs=4 * measured[name].se)
        # The log density of two independent coordinates has the variance 1.
        assert measured[name].se == pytest.approx(1 / math.sqrt(2000), rel=0.1)
    assert abs(measured["gap"].value) < 4 * measured["gap"].se
    centres = torch.tensor([MEANS[k if labels else None] for k in (0, 1)]).double()
    centres = SCALING.to_data(centres)[train.labels]
    closer = Labelled(centres + 0.5 * (train.points - centres), train.labels)
    measured = held_out_likelihood(model, closer, test, n=4000, tolerance=1e-4)
    # Half as far from the mean, |x|^2 / 2 has the mean 1 / 4 instead of 1.
    assert measured["gap"].value == pytest.approx(0.75, abs=4 * measured["gap"].se)


def test_distances_are_at_their_floor_for_the_same_distribution_and_above_for_another() -> None:
    test = points(1000, "test")
    same = held_out_distances(points(3000, "same"), test, SETTINGS, seed=0)
    assert set(same) == {"energy_distance", "sliced_wasserstein"}
    for estimate in same.values():
        assert abs(estimate.value - estimate.floor) < 4 * estimate.se
    other = held_out_distances(points(3000, "same") + 0.3, test, SETTINGS, seed=0)
    for estimate in other.values():
        assert estimate.value > estimate.floor + 5 * estimate.se
    few = held_out_distances(points(5, "few"), test, SETTINGS, seed=0, names=["energy_distance"])
    assert set(few) == {"energy_distance"}


def test_the_image_of_the_density_integrates_to_one_and_is_in_data_units() -> None:
    x, y, log_density = model_density(model_with(), reach=6.0, grid=90, tolerance=1e-3)
    cell = float((x[1] - x[0]) * (y[1] - y[0]))
    assert float(log_density.exp().sum()) * cell == pytest.approx(1, abs=1e-3)
    row, column = divmod(int(log_density.argmax()), 90)
    centre = SCALING.to_data(torch.tensor(MEANS[None]).double())
    assert float(x[column]) == pytest.approx(float(centre[0]), abs=0.05)
    assert float(y[row]) == pytest.approx(float(centre[1]), abs=0.05)
