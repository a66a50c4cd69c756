"""Measures against held-out points, on models whose output is known."""

import math

import pytest
import torch
from torch import Tensor

import ddpm
from ddpm.core.compute import stream
from ddpm.core.params import MeasureSamplesSettings
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


class Gaussian(TrainedModel):
    """The exact denoiser of N(0, I) in model units, in the place of a trained network."""

    def given(self, label: int | None) -> Denoiser:
        assert label in {None, 0, 1}
        return self.denoiser


def velocity(x_t: Tensor, t: Tensor) -> Tensor:
    # E[x_0 | x_t] = a x_t and E[eps | x_t] = sigma x_t, so that v is 0.
    return 0 * x_t


def gaussian(*classes: str) -> TrainedModel:
    denoiser = Denoiser(velocity, PREDICTIONS["v"], SCHEDULE, torch.float64)
    source = model_file.PointFile(path="points.csv", classes=classes)
    description = model_file.ModelDescription.model_construct(seed=0)
    return Gaussian(description, denoiser, source, SCALING)


def points(n: int, name: str) -> Tensor:
    x = torch.randn(n, 2, dtype=torch.float64, generator=stream(0, name))
    return SCALING.to_data(x)


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_the_likelihood_is_that_of_the_distribution_in_data_units(classes: tuple[str, ...]) -> None:
    train, test = (
        Labelled(points(4000, name), torch.arange(4000) % max(1, len(classes)))
        for name in ("train", "test")
    )
    measured = held_out_likelihood(gaussian(*classes), train, test, n=2000, tolerance=1e-4)
    entropy = math.log(2 * math.pi * math.e * 0.25)
    for name in ("nll", "nll_train"):
        assert measured[name].value == pytest.approx(entropy, abs=4 * measured[name].se)
        # The log density of two independent coordinates has the variance 1.
        assert measured[name].se == pytest.approx(1 / math.sqrt(2000), rel=0.1)
    assert abs(measured["gap"].value) < 4 * measured["gap"].se
    closer = Labelled(SCALING.mean + 0.5 * (train.points - SCALING.mean), train.labels)
    measured = held_out_likelihood(gaussian(*classes), closer, test, n=4000, tolerance=1e-4)
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
    x, y, log_density = model_density(gaussian(), reach=5.0, grid=80, tolerance=1e-3)
    cell = float((x[1] - x[0]) * (y[1] - y[0]))
    assert float(log_density.exp().sum()) * cell == pytest.approx(1, abs=1e-3)
    row, column = divmod(int(log_density.argmax()), 80)
    assert float(x[column]) == pytest.approx(1, abs=0.05)
    assert float(y[row]) == pytest.approx(-2, abs=0.05)
