import math
from itertools import pairwise

import numpy as np
import pytest
import sklearn.datasets as sklearn
import torch
from conftest import shipped
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.data.boxes import Box
from ddpm.data.curves import Curve
from ddpm.data.datasets import DATASETS, SPIRAL, Circles, Dataset, Moons, Part, Spiral, Tree


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    """Every data set, with its shipped settings."""
    return DATASETS[request.param].model_validate(shipped()["datasets"][request.param])


def noiseless(dataset: Dataset) -> Dataset:
    return dataset.model_copy(update={"noise": 0.0})


def along(part: Part, n: int) -> Tensor:
    """Points that are spread evenly over a part."""
    shape, k = part.shape, (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if isinstance(shape, Curve):
        return shape.points(shape.u_min + k * (shape.u_max - shape.u_min))
    (left, right), (low, high) = shape.x, shape.y
    golden = (torch.arange(n, dtype=torch.float64) * (math.sqrt(5) - 1) / 2) % 1
    return torch.stack((left + k * (right - left), low + golden * (high - low)), dim=1)


def test_the_spiral_is_the_blogs() -> None:
    u = torch.tensor([1.5, 2.0, 4.5], dtype=torch.float64) * math.pi
    raw = torch.tensor([[0.0, -1.5], [2.0, 0.0], [0.0, 4.5]]).double() * math.pi
    torch.testing.assert_close(SPIRAL.raw(u), raw)
    assert (SPIRAL.u_min, SPIRAL.u_max) == (float(u[0]), float(u[-1]))
    assert Spiral.parts == (Part(1.0, SPIRAL),)


def test_the_parts_together_span_exactly_minus_one_to_one(dataset: Dataset) -> None:
    corners = []
    for shape in (part.shape for part in dataset.parts):
        if isinstance(shape, Box):
            corners += [(shape.x[0], shape.y[0]), (shape.x[1], shape.y[1])]
        else:
            u = torch.linspace(shape.u_min, shape.u_max, 500_001, dtype=torch.float64)
            points = shape.points(u)
            corners += [tuple(points.amin(0).tolist()), tuple(points.amax(0).tolist())]
    square = np.array(corners)
    np.testing.assert_allclose(square.min(0), -1, rtol=0, atol=1e-8)
    np.testing.assert_allclose(square.max(0), 1, rtol=0, atol=1e-8)
    assert np.abs(square).max() <= 1 + 1e-14


def test_the_weights_and_labels_are_consistent(dataset: Dataset) -> None:
    assert sum(part.weight for part in dataset.parts) == pytest.approx(1, abs=1e-14)
    labels = {part.label for part in dataset.parts}
    assert labels == set(range(max(1, len(dataset.classes))))
    assert len(dataset.classes) != 1
    for label in labels:
        weight = sum(part.weight for part in dataset.parts if part.label == label)
        assert weight == pytest.approx(1 / len(labels))


def test_a_sample_has_the_distributions_moments(
    dataset: Dataset, generator: torch.Generator
) -> None:
    n, fine = 100_000, 20_001
    x = dataset.sample(n, generator=generator)
    means = torch.stack([along(part, fine).mean(0) for part in dataset.parts])
    squares = torch.stack([along(part, fine).square().mean(0) for part in dataset.parts])
    weights = torch.tensor([part.weight for part in dataset.parts], dtype=torch.float64)
    mean = weights @ means
    variance = weights @ squares - mean.square() + dataset.noise**2
    standard_errors = (x.mean(0) - mean) / (variance / n).sqrt()
    assert float(standard_errors.abs().max()) < 4
    # The second moment's own spread is at most that of a variable bounded by its square.
    assert (x.var(0) / variance).tolist() == pytest.approx([1, 1], abs=4 * math.sqrt(2 / n))


def test_the_spirals_moments_are_known() -> None:
    points = SPIRAL.points(torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64))
    assert points.mean(0).tolist() == pytest.approx([0.0395, -0.1061], abs=1e-4)
    std = (points.var(0) + 0.02**2).sqrt()
    assert std.tolist() == pytest.approx([0.6002, 0.5525], abs=1e-4)


def test_without_noise_every_point_is_on_a_part_of_its_label(
    dataset: Dataset, generator: torch.Generator
) -> None:
    n = 1000
    x, labels = noiseless(dataset).sample_with_labels(n, generator=generator)
    assert float(dataset.project(x)[1].max()) < 1e-7
    for part in dataset.parts:
        mine = x[labels == part.label]
        same = [other.shape for other in dataset.parts if other.label == part.label]
        distances = torch.stack([shape.project(mine)[1] for shape in same])
        assert float(distances.amin(0).max()) < 1e-7
    shares = labels.bincount(minlength=max(1, len(dataset.classes))) / n
    assert shares.tolist() == pytest.approx([1 / len(shares)] * len(shares), abs=0.07)


def test_positions_follow_the_weights_of_the_parts() -> None:
    moons = Moons(noise=0.0)
    x, labels = moons.sample_with_labels(2000, generator=stream(0, "moons"))
    position, _ = moons.project(x)
    assert torch.equal(position > 0.5, labels == 1)
    sorted_positions = position.sort().values
    ideal = (torch.arange(2000).double() + 0.5) / 2000
    assert float((sorted_positions - ideal).abs().max()) < 1.63 / math.sqrt(2000)


def test_a_trees_classes_share_their_trunk_and_are_uniform_along_their_paths() -> None:
    x, labels = Tree(noise=0.0).sample_with_labels(40_000, generator=stream(0, "tree"))
    corners = [(0.0, -1.0), (0.0, -0.3), (0.55, 0.25), (0.25, 1.0)]
    lengths = [math.dist(a, b) for a, b in pairwise(corners)]
    for label in range(4):
        on_trunk = float((x[labels == label][:, 1] < -0.3).double().mean())
        outer = [(0.55, 0.25), (1.0, 1.0)]
        leaf = math.dist(*outer) if label in (0, 3) else lengths[2]
        expected = lengths[0] / (lengths[0] + lengths[1] + leaf)
        assert on_trunk == pytest.approx(expected, abs=0.02)


def test_the_noise_is_added_to_the_same_points(dataset: Dataset) -> None:
    x, clean = (
        kind.sample(20_000, generator=torch.Generator().manual_seed(0))
        for kind in (dataset.model_copy(update={"noise": 0.3}), noiseless(dataset))
    )
    noise = (x - clean) / 0.3
    n = noise.numel()
    assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(noise.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * n))


def test_the_same_generator_gives_the_same_points(dataset: Dataset) -> None:
    draws = [dataset.sample(5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_point_is_projected_onto_a_box_or_stays_inside() -> None:
    box = Box(x=(0.0, 2.0), y=(-1.0, 0.0))
    x = torch.tensor([[0.5, -0.5], [-3.0, 4.0], [2.5, -1.0]], dtype=torch.float64)
    position, distance = box.project(x)
    assert position.tolist() == pytest.approx([0.25, 0, 1])
    assert distance.tolist() == pytest.approx([0, 5, 0.5])


def assert_same_distribution(ours: Tensor, theirs: np.ndarray) -> None:
    """Compare projections in several directions by the two-sample Kolmogorov-Smirnov statistic."""
    n = len(ours)
    both = torch.cat((ours, torch.from_numpy(theirs)))
    for angle in torch.linspace(0, math.pi, 7, dtype=torch.float64)[:-1]:
        projected = both @ torch.stack((angle.cos(), angle.sin()))
        order = projected.argsort(stable=True)
        steps = torch.where(order < n, 1.0, -1.0).double().cumsum(0) / n
        # Exceeded by chance once in a hundred thousand times.
        assert float(steps.abs().max()) < 2.47 * math.sqrt(2 / n)


def test_scikit_learns_generators_have_the_same_distribution() -> None:
    n, noise = 20_000, 0.1
    generator = stream(0, "sklearn")
    moons, labels = sklearn.make_moons(n, noise=noise, random_state=0)
    in_frame = (moons - (0.5, 0.25)) / (1.5, 0.75)
    # Its noise, unlike ours, is stretched with the frame.
    ours, our_labels = Moons(noise=0.0).sample_with_labels(n, generator=generator)
    stretched = torch.tensor([noise / 1.5, noise / 0.75]).double()
    ours = ours + stretched * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    for label in (0, 1):
        size = min(int((our_labels == label).sum()), int((labels == label).sum()))
        assert_same_distribution(ours[our_labels == label][:size], in_frame[labels == label][:size])

    circles, labels = sklearn.make_circles(n, noise=noise, factor=0.5, random_state=0)
    ours, our_labels = Circles(noise=noise).sample_with_labels(n, generator=generator)
    for label in (0, 1):
        size = min(int((our_labels == label).sum()), int((labels == label).sum()))
        assert_same_distribution(ours[our_labels == label][:size], circles[labels == label][:size])

    s_curve, _ = sklearn.make_s_curve(n, random_state=0)
    parts = DATASETS["curves"].parts[1:3]
    halves = [part.shape.sample(n // 2, 0.0, generator=generator) for part in parts]
    ours = torch.cat(halves)[torch.randperm(n, generator=generator)]
    assert_same_distribution(ours, s_curve[:, [0, 2]] / (1, 2))

    roll, _ = sklearn.make_swiss_roll(n, random_state=0)
    low, high = (end.numpy() for end in SPIRAL.extent)
    ours = DATASETS["swiss_roll"](noise=0.0).sample(n, generator=generator)
    assert_same_distribution(ours, (2 * roll[:, [0, 2]] - (low + high)) / (high - low))
