import math

import pytest
import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.params import LossSettings
from ddpm.data.datasets import SPIRAL
from ddpm.data.scaling import Scaling
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.process import coefficients
from ddpm.reference.distribution import ExactDistribution
from ddpm.training.neighbours import NeighbourSets
from ddpm.training.task import Task, TrainingBatch


def sets_of(points: Tensor, size: int) -> NeighbourSets:
    return NeighbourSets.of(points, size, generator=stream(0, "sets"))


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize(
    ("n", "size"), [(1, 8), (7, 8), (8, 8), (9, 8), (100, 7), (1000, 64), (5, 1)]
)
def test_sets_of_every_size_hold_each_point_once(n: int, size: int, d: int) -> None:
    points = torch.randn(n, d, generator=stream(0, "points"))
    sets = sets_of(points, size)
    for level in sets.sets:
        members = level.transpose(1, 2).reshape(-1, d)[:n]
        assert sorted(members.tolist()) == sorted(points.tolist())
    assert bool((sets.radii.diff() <= 0).all())


def test_a_set_of_the_smallest_cells_holds_neighbours() -> None:
    points = torch.rand(4096, 2, generator=stream(0, "points"))
    *_, smallest = sets_of(points, 64).sets
    # 64 cells of area 1/64: an edge of 1/8, and twice that where the halves alternate badly.
    extents = smallest.amax(-1) - smallest.amin(-1)
    assert float(extents.max()) < 0.3
    assert float(extents.mean()) < 0.14


@pytest.mark.parametrize("sigma_ve", [1e-12, 0.003, 0.1, 1.0, 30.0, math.inf])
def test_the_means_are_those_of_the_posterior_given_the_set(sigma_ve: float) -> None:
    # The last of three sets has five points, so that every set is drawn, and its filling as well.
    points = torch.randn(37, 2, generator=stream(0, "points")).double()
    sets = sets_of(points, 16)
    eps = torch.randn(50, 2, generator=stream(0, "eps")).double()
    clean = sets.draw(
        torch.full((50,), sigma_ve, dtype=torch.float64), eps, generator=stream(0, "draw")
    )
    candidates = sets.sets.transpose(2, 3).flatten(0, 1)
    for x0, mean_x0, mean_eps, noise in zip(*clean[:3], eps, strict=True):
        expected = []
        for members in candidates:
            if bool((members == x0).all(1).any()):
                real = members[members.norm(dim=1) < 1e6]
                each_eps = (x0 - real) / sigma_ve + noise
                weights = (-each_eps.square().sum(1) / 2).softmax(0)[:, None]
                expected.append(((weights * real).sum(0), (weights * each_eps).sum(0)))
        errors = [
            max(float((mean_x0 - x).abs().max()), float((mean_eps - e).abs().max()))
            for x, e in expected
        ]
        assert min(errors) < (1e-5 if math.isinf(sigma_ve) else 1e-9)


def test_every_point_is_drawn_equally_often() -> None:
    points = torch.arange(100.0)[:, None]
    sets = sets_of(points, 16)
    drawn = sets.draw(
        torch.full((20_000,), 0.5), torch.zeros(20_000, 1), generator=stream(0, "draw")
    )
    counts = torch.bincount(drawn.x0[:, 0].long(), minlength=100)
    assert float((counts - 200).abs().max()) < 4.5 * math.sqrt(200)


def gaussian(n: int) -> Tensor:
    return torch.tensor([0.3, -0.2]) + 0.5 * torch.randn(n, 2, generator=stream(0, "points"))


def spiral(n: int) -> Tensor:
    points = SPIRAL.sample(n, 0.02, generator=stream(0, "points")).float()
    return Scaling.from_points(points).to_model(points)


def batches(points: Tensor, prediction: str, t: float) -> tuple[TrainingBatch, Tensor]:
    """At one t, a large batch with averaged targets, and the targets without averaging."""
    loss = LossSettings(neighbours=32, time_power=0, integer_times=False)
    task = Task(shipped_schedule("linear"), PREDICTIONS[prediction], loss)
    n = 200_000
    eps = torch.randn(n, 2, generator=stream(1, "eps"))
    a, sigma = task.schedule.levels(t)
    sets = sets_of(points, 32)
    clean = sets.draw(torch.full((n,), sigma / a), eps, generator=stream(2, "draw"))
    single = clean._replace(mean_x0=clean.x0, mean_eps=eps)
    times = torch.full((n,), t)
    levels = coefficients(task.schedule, times, like=eps)
    averaged, plain = (task._noised(points_, times, eps, *levels) for points_ in (clean, single))
    assert torch.equal(averaged.x_t, plain.x_t)
    return averaged, plain.target


@pytest.mark.parametrize("t", [3.0, 60.0, 400.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("data", [gaussian, spiral])
def test_averaging_changes_no_mean_given_x_t_and_lowers_the_variance(
    data: object, prediction: str, t: float
) -> None:
    assert callable(data)
    averaged, plain = batches(data(3000), prediction, t)
    difference = (averaged.target - plain).double()
    x = averaged.x_t.double()
    # The mean given x_t is the same if the difference has mean 0 when weighted by any function.
    functions = [
        torch.ones(len(x)),
        *x.T,
        x.prod(1),
        *(2 * x).sin().T,
        *(6 * x).cos().T,
        x.norm(dim=1),
    ]
    functions += [(x[:, 0] > 0.4).double(), ((x[:, 0] < 0) & (x[:, 1] > 0)).double()]
    for weight in functions:
        weighted = difference * weight[:, None].double()
        error = weighted.mean(0) / (weighted.std(0) / math.sqrt(len(x)))
        assert float(error.abs().max()) < 4.5
    # The average is a conditional mean, so the difference is uncorrelated with it as well.
    weighted = difference * averaged.target
    assert float((weighted.mean(0) / weighted.std(0)).abs().max()) < 4.5 / math.sqrt(len(x))
    assert float(averaged.target.var(0).sum()) < float(plain.var(0).sum())


def test_for_gaussian_data_the_averaged_target_has_the_exact_mean() -> None:
    # E[x_0 | x_t] is linear; of many points, the sample's own mean and deviation are the data's.
    points = gaussian(100_000)
    points = (points - points.mean(0)) / points.std(0) * 0.5
    averaged, plain = batches(points, "x0", 300.0)
    a, sigma = shipped_schedule("linear").levels(300.0)
    exact = a * 0.25 / (a**2 * 0.25 + sigma**2) * averaged.x_t
    variances = []
    for target in (averaged.target, plain):
        residual = (target - exact).double()
        slope_error = (residual * averaged.x_t).mean(0) / averaged.x_t.var(0)
        assert float(slope_error.abs().max()) < 0.005
        variances.append(float(residual.square().mean()))
    assert variances[0] < 0.25 * variances[1]


@pytest.mark.parametrize("t", [20.0, 200.0])
def test_for_the_spiral_the_averaged_target_is_much_nearer_to_the_exact_one(t: float) -> None:
    points = SPIRAL.sample(30_000, 0.02, generator=stream(0, "points"))
    scaling = Scaling.from_points(points)
    averaged, plain = batches(scaling.to_model(points).float(), "v", t)
    schedule = shipped_schedule("linear")
    exact = ExactDistribution.from_curves([(1.0, SPIRAL)], 0.02, scaling, schedule)
    few = slice(0, 4000)
    best = exact.velocity(averaged.x_t[few].double(), torch.tensor([t]).double())
    errors = [
        float((target[few].double() - best).square().mean()) for target in (averaged.target, plain)
    ]
    assert errors[0] < 0.45 * errors[1]
