import math

import pytest
import torch
from conftest import shipped

from ddpm.data.datasets import DATASETS, SPIRAL, Dataset, Spiral


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    """Every data set, with its shipped settings."""
    return DATASETS[request.param].model_validate(shipped()["datasets"][request.param])


def noiseless(dataset: Dataset) -> Dataset:
    return dataset.model_copy(update={"noise": 0.0})


def test_the_spiral_is_the_blogs() -> None:
    curve = Spiral(noise=0.02).curve
    assert curve is SPIRAL
    u = torch.tensor([1.5, 2.0, 4.5], dtype=torch.float64) * math.pi
    raw = torch.tensor([[0.0, -1.5], [2.0, 0.0], [0.0, 4.5]]).double() * math.pi
    torch.testing.assert_close(curve.raw(u), raw)
    assert (curve.u_min, curve.u_max) == (float(u[0]), float(u[-1]))


def test_the_curve_spans_exactly_minus_one_to_one(dataset: Dataset) -> None:
    curve = dataset.curve
    points = curve.points(torch.linspace(curve.u_min, curve.u_max, 2_000_001, dtype=torch.float64))
    torch.testing.assert_close(points.amin(0), -torch.ones(2).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(points.amax(0), torch.ones(2).double(), rtol=0, atol=1e-8)
    assert float(points.abs().max()) <= 1 + 1e-14


def test_a_sample_has_the_distributions_moments(
    dataset: Dataset, generator: torch.Generator
) -> None:
    n = 100_000
    curve = dataset.curve
    x = dataset.sample(n, generator=generator)
    points = curve.points(torch.linspace(curve.u_min, curve.u_max, 100_001, dtype=torch.float64))
    variance = points.var(0) + dataset.noise**2
    standard_errors = (x.mean(0) - points.mean(0)) / (variance / n).sqrt()
    assert float(standard_errors.abs().max()) < 4
    # The second moment's own spread is at most that of a variable bounded by its square.
    assert (x.var(0) / variance).tolist() == pytest.approx([1, 1], abs=4 * math.sqrt(2 / n))


def test_the_spirals_moments_are_known() -> None:
    points = SPIRAL.points(torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64))
    assert points.mean(0).tolist() == pytest.approx([0.0395, -0.1061], abs=1e-4)
    std = (points.var(0) + 0.02**2).sqrt()
    assert std.tolist() == pytest.approx([0.6002, 0.5525], abs=1e-4)


def test_without_noise_every_point_is_on_the_curve(
    dataset: Dataset, generator: torch.Generator
) -> None:
    curve = dataset.curve
    u, distance = curve.project(noiseless(dataset).sample(1000, generator=generator))
    assert float(distance.max()) < 1e-7
    assert curve.uniformity(u) < 1.95 / math.sqrt(1000)


def test_the_noise_is_added_to_the_same_points_of_the_curve(dataset: Dataset) -> None:
    x, on_curve = (
        kind.sample(20_000, generator=torch.Generator().manual_seed(0))
        for kind in (dataset.model_copy(update={"noise": 0.3}), noiseless(dataset))
    )
    noise = (x - on_curve) / 0.3
    n = noise.numel()
    assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(noise.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * n))


def test_the_same_generator_gives_the_same_points(dataset: Dataset) -> None:
    draws = [dataset.sample(5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
