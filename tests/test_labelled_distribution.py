"""The exact distribution of every data set, and of each of its classes."""

import math

import pytest
import torch
from conftest import shipped, shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.data.boxes import Box
from ddpm.data.curves import Curve
from ddpm.data.datasets import DATASETS, Checkerboard, Dataset, Part, Tree
from ddpm.data.scaling import Scaling
from ddpm.diffusion.tangents import prediction_with_jacobian
from ddpm.reference.centres import BoxCentres
from ddpm.reference.distribution import ExactDistribution

SCALING = Scaling(torch.tensor([0.1, -0.2]).double(), 0.6)
LABELLED = [name for name, kind in DATASETS.items() if kind.classes]


def make(name: str) -> Dataset:
    return DATASETS[name].model_validate(shipped()["datasets"][name])


def distribution(dataset: Dataset, schedule: str = "linear") -> ExactDistribution:
    return ExactDistribution.from_dataset(dataset, SCALING, shipped_schedule(schedule, 1000))


def around(exact: ExactDistribution, t: float, n: int) -> Tensor:
    """Points in and around the region where p_t is large."""
    generator = stream(0, f"around/{t}")
    x = exact.sample(n, t, generator=generator)
    return x + 0.2 * torch.randn(n, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("t", [0.0, 150.0, 1000.0])
def test_density_and_its_classes_integrate_to_one(name: str, t: float) -> None:
    exact = distribution(make(name))
    a, sigma = exact.schedule.levels(t)
    width = math.hypot(sigma, a * exact.noise)
    step = width / 1.5
    half = math.ceil((2.2 * a + 7 * width) / step)
    side = torch.arange(-half, half + 1).double() * step
    # Far from its curve a density is only known to a few parts in a thousand, and adds nothing.
    grid = torch.cartesian_prod(side, side)
    for one in (exact, *(given for _, given in exact.classes[:1])):
        total = float(one.log_density(grid, t).exp().sum()) * step**2
        assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("t", [0.0, 20.0, 400.0])
def test_score_and_jacobian_are_derivatives_of_the_log_density(name: str, t: float) -> None:
    exact = distribution(make(name))
    for one in (exact, *(given for _, given in exact.classes[:1])):
        x = around(one, t, 40).requires_grad_()
        (gradient,) = torch.autograd.grad(one.log_density(x, t).sum(), x)
        score = one.score(x.detach(), t)
        error = (score - gradient).norm(dim=1) / gradient.norm(dim=1).clamp(min=1e-3)
        assert float(error.max()) < 1e-8
        time = torch.tensor([t], dtype=torch.float64)
        v, jacobian = one.velocity_with_jacobian(x.detach(), t)
        by_autograd = prediction_with_jacobian(lambda x, t, one=one: one.velocity(x, t), x, time)
        torch.testing.assert_close(v, by_autograd[0])
        torch.testing.assert_close(jacobian, by_autograd[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("t", [0, 200])
def test_samples_have_the_entropy_and_the_mean_of_the_density(name: str, t: int) -> None:
    # The points of the data set itself, and the sampler of the distribution.
    exact, n = distribution(make(name)), 4000
    a, sigma = exact.schedule.levels(t)
    generator = stream(0, "entropy")
    clean = SCALING.to_model(make(name).sample(n, generator=generator))
    noised = a * clean + sigma * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    surprises = [
        -exact.log_density(x, t) for x in (noised, exact.sample(n, t, generator=generator))
    ]
    difference = float(surprises[0].mean() - surprises[1].mean())
    assert abs(difference) < 4 * math.hypot(*(float(s.std()) for s in surprises)) / math.sqrt(n)
    # The score has mean zero over its own density.
    score = exact.score(noised, t)
    assert float((score.mean(0) / (score.std(0) / math.sqrt(n))).abs().max()) < 4


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("t", [0.0, 300.0])
def test_the_whole_is_the_mixture_of_its_classes(name: str, t: float) -> None:
    exact = distribution(make(name))
    x = around(exact, t, 50)
    parts = torch.stack([math.log(w) + one.log_density(x, t) for w, one in exact.classes])
    whole = exact.log_density(x, t)
    torch.testing.assert_close(torch.logsumexp(parts, 0), whole, rtol=1e-9, atol=1e-9)
    probabilities = exact.label_probabilities(x, t)
    torch.testing.assert_close(probabilities, (parts - whole).exp().T, rtol=1e-8, atol=1e-12)
    # The posterior mean of the whole is that of the classes, weighted by their probabilities.
    means = torch.stack([given.posterior_mean(x, t) for _, given in exact.classes], dim=1)
    expected = (probabilities[..., None] * means).sum(1)
    torch.testing.assert_close(exact.posterior_mean(x, t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_as_probable_as_bayes_says(name: str) -> None:
    dataset, n, t = make(name), 8000, 100
    exact = distribution(dataset)
    generator = stream(0, "labels")
    clean, labels = dataset.sample_with_labels(n, generator=generator)
    a, sigma = exact.schedule.levels(t)
    eps = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    probabilities = exact.label_probabilities(a * SCALING.to_model(clean) + sigma * eps, t)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * n)
    # The indicator of each label minus its probability has mean zero, also on any set of x_t.
    errors = torch.nn.functional.one_hot(labels, len(dataset.classes)) - probabilities
    likely = probabilities > 0.3
    for selected in (torch.ones_like(likely), likely, ~likely):
        chosen = torch.where(selected, errors, 0.0)
        se = chosen.std(0) / math.sqrt(n)
        assert float((chosen.mean(0).abs() - 4 * se).max()) <= 1e-12


@pytest.mark.parametrize(("a", "sigma"), [(1.0, 0.0), (0.6, 0.8), (1e-3, 1.0), (0.0, 1.0)])
def test_boxes_have_the_closed_form_with_erf(a: float, sigma: float) -> None:
    box = Box(x=(-0.5, 1.0), y=(0.25, 0.5))
    centres = BoxCentres([(1.0, box)], SCALING)
    variance = (a * 0.05) ** 2 + sigma**2
    x = 2 * torch.randn(50, 2, dtype=torch.float64, generator=stream(0, "box"))
    ends = torch.tensor([box.x, box.y], dtype=torch.float64)
    ends = (ends - SCALING.mean[:, None]) / SCALING.scale
    log_density, means = centres.means(x, a, variance, squares=True)
    middle = (a * ends.mean(1) - x).abs() / math.sqrt(variance)
    near = (middle - a * (ends[:, 1] - ends[:, 0]) / math.sqrt(variance) / 2).amax(1) < 5
    assert int(near.sum()) > 3
    if a == 0:
        expected = -x.square().sum(1) / (2 * variance) - math.log(2 * math.pi * variance)
        mean = ends.mean(1).expand(50, 2)
    else:
        standard = (a * ends.T[:, None] - x) / math.sqrt(variance)
        phi = (-standard.square() / 2).exp() / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(standard[1]) - torch.special.ndtr(standard[0])
        expected = (mass / (a * (ends[:, 1] - ends[:, 0]))).log().sum(1)
        mean = (x - math.sqrt(variance) * (phi[1] - phi[0]) / mass) / a
    tolerance = 1e-6 if 0 < a < 0.01 else 1e-9
    torch.testing.assert_close(log_density[near], expected[near], rtol=0, atol=tolerance)
    torch.testing.assert_close(means[near, :2], mean[near], rtol=0, atol=100 * tolerance)
    # The covariance of x and y vanishes in a single box.
    torch.testing.assert_close(means[:, 3], means[:, 0] * means[:, 1])


def test_the_checkerboard_reaches_both_ends_of_the_process() -> None:
    exact = distribution(Checkerboard(noise=0.02))
    squares = torch.tensor([[-0.75, -0.75], [-0.25, -0.25], [-0.25, -0.75]]).double()
    dark = exact.log_density(SCALING.to_model(squares), 0) + SCALING.log_jacobian
    # Eight squares with sides of a half: the density is 1 / 2.
    assert dark[:2].tolist() == pytest.approx([math.log(0.5)] * 2, abs=1e-6)
    assert float(dark[2]) < -50
    without_signal = ExactDistribution.from_dataset(
        Checkerboard(noise=0.02),
        SCALING,
        shipped_schedule("linear", 100).without_terminal_signal(),
    )
    x = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "x"))
    mean = SCALING.to_model(torch.zeros(1, 2).double()).expand(5, 2)
    torch.testing.assert_close(without_signal.posterior_mean(x, 100), mean)


def test_labels_that_do_not_exist_are_refused() -> None:
    tree = distribution(Tree(noise=0.06))
    for label in (-1, 4):
        with pytest.raises(UserError, match=f"the label is {label} but should be 0 to 3"):
            tree.given(label)
    spiral = distribution(make("spiral"))
    with pytest.raises(UserError, match="there are no labels"):
        spiral.given(0)
    with pytest.raises(UserError, match="the data have no labels"):
        spiral.label_probabilities(torch.zeros(1, 2).double(), 0)


def test_curves_and_boxes_do_not_mix() -> None:
    class Mixed(Dataset):
        parts = (
            Part(0.5, Box(x=(-1.0, 0.0), y=(-1.0, 1.0))),
            Part(0.5, Curve(lambda u: torch.stack((u, u), 1), 0.0, 1.0)),
        )

    with pytest.raises(ValueError, match="curves and boxes"):
        distribution(Mixed(noise=0.1))
