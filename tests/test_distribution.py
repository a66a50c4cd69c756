import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import MEAN, STD, gaussian_distribution, gaussian_log_density
from spiral_cases import MIXED, SCALING, TIMES, grid_around, mixed, points_at, spiral, width_at
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.data.datasets import SPIRAL
from ddpm.diffusion.process import q_sample
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.reference.distribution import ExactDistribution


@pytest.mark.parametrize("t", TIMES)
def test_the_score_is_the_gradient_of_the_log_density(t: float) -> None:
    exact = mixed()
    x = points_at(exact, t).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_density(x, t).sum(), x)
    score = exact.score(x.detach(), t)
    error = (score - gradient).norm(dim=1) / gradient.norm(dim=1).clamp(min=1e-3)
    assert float(error.max()) < 1e-8


@pytest.mark.parametrize("t", [0.0, 20.0, 100.0, 300.0, 1000.0])
def test_the_density_integrates_to_one(t: float) -> None:
    exact = spiral()
    side, step = grid_around(exact, t)
    total = sum(
        float(exact.log_density(torch.stack((torch.full_like(side, x), side), 1), t).exp().sum())
        for x in side.tolist()
    )
    assert total * step**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("t", [1.0, 30.0, 200.0, 700.0])
def test_the_posterior_mean_agrees_with_monte_carlo(t: float) -> None:
    exact = spiral(noise=0.05)
    a, sigma = exact.schedule.levels(t)
    n = 1_000_000
    clean = SCALING.to_model(SPIRAL.sample(n, 0.05, generator=stream(0, "brute")))
    x_t = points_at(exact, t, 4)
    for x in a * clean[:6] + sigma * x_t[0] * 0.3:
        log_weights = -(x - a * clean).square().sum(1) / (2 * sigma**2)
        weights = torch.softmax(log_weights, 0)
        mean = weights @ clean
        se = (weights.square() @ (clean - mean).square()).sqrt()
        error = exact.posterior_mean(x[None], t)[0] - mean
        assert float((error / se).abs().max()) < 4.5


def test_samples_are_drawn_from_the_curves_by_weight() -> None:
    exact = ExactDistribution.from_curves(MIXED, 0.0, SCALING, shipped_schedule("linear", 100))
    points = SCALING.to_data(exact.sample(4000, 0, generator=stream(0, "mixed")))
    on_line = (points[:, 0] - points[:, 1]).abs() < 1e-9
    assert float(on_line.double().mean()) == pytest.approx(0.75, abs=4 * 0.43 / math.sqrt(4000))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_with_tiny_noise_all_results_are_finite(noise: float) -> None:
    schedule = shipped_schedule("cosine", 4000)
    exact = spiral(noise, schedule)
    x = SCALING.to_model(SPIRAL.sample(50, noise, generator=stream(0, "tiny")))
    for t in (1e-2, 1.0):
        for values in (exact.score(x, t), exact.posterior_mean(x, t), exact.log_density(x, t)):
            assert bool(values.isfinite().all())
        # This near to the curve, the posterior mean is close to the point itself.
        distance = (exact.posterior_mean(x, t) - x).norm(dim=1)
        assert float(distance.max()) < 10 * schedule.levels(t)[1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_on_gaussian_data_every_quantity_equals_the_closed_form(name: str) -> None:
    schedule = shipped_schedule(name, 100)
    exact = gaussian_distribution(schedule)
    x = torch.randn(50, 2, dtype=torch.float64, generator=stream(0, "gaussian"))
    for t in (0.0, 0.5, 3.0, 50.0, 100.0):
        a, sigma = schedule.levels(t)
        variance = a**2 * STD**2 + sigma**2
        expected = gaussian_log_density(x, a * MEAN, variance)
        torch.testing.assert_close(exact.log_density(x, t), expected, rtol=1e-9, atol=1e-9)
        score = (a * MEAN - x) / variance
        torch.testing.assert_close(exact.score(x, t), score)
        x0 = MEAN + a * STD**2 / variance * (x - a * MEAN)
        torch.testing.assert_close(exact.posterior_mean(x, t), x0)
        v = a * (-sigma * score) - sigma * x0
        torch.testing.assert_close(exact.denoiser.velocity(x, t), v, rtol=1e-9, atol=1e-9)
        if t > 0:
            x0_hat, eps_hat = exact.denoiser(x, t)
            torch.testing.assert_close(x0_hat, x0, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(eps_hat, -sigma * score, rtol=1e-9, atol=1e-9)


def test_the_density_of_each_curve_is_multiplied_by_its_weight() -> None:
    # Near the end of the line the spiral adds nothing.
    schedule = shipped_schedule("linear", 1000)
    (_, curve) = MIXED[1]
    alone = ExactDistribution.from_curves([(1.0, curve)], 0.02, SCALING, schedule)
    mixed = ExactDistribution.from_curves(MIXED, 0.02, SCALING, schedule)
    x = SCALING.to_model(curve.points(torch.tensor([1.9], dtype=torch.float64)))
    ratio = mixed.log_density(x, 0) - alone.log_density(x, 0)
    assert float(ratio) == pytest.approx(math.log(0.75), abs=1e-9)


def test_the_distribution_of_a_list_of_points_is_a_mixture_of_gaussians() -> None:
    schedule = shipped_schedule("linear", 1000)
    points = torch.randn(7, 2, dtype=torch.float64, generator=stream(0, "list"))
    exact = ExactDistribution.from_points(points, schedule)
    x = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "at"))
    for t in (20.0, 400.0):
        a, sigma = schedule.levels(t)
        components = torch.stack([gaussian_log_density(x, a * point, sigma**2) for point in points])
        expected = torch.logsumexp(components, 0) - math.log(7)
        torch.testing.assert_close(exact.log_density(x, t), expected)
        posterior_mean = torch.softmax(components, 0).T @ points
        torch.testing.assert_close(exact.posterior_mean(x, t), posterior_mean)
    # With little noise only the nearest point has any weight.
    torch.testing.assert_close(exact.posterior_mean(points + 1e-3, 1.0), points)


def test_each_point_may_have_its_own_time() -> None:
    exact = spiral()
    x = points_at(exact, 60.0, 6)
    t = torch.tensor([3.0, 700.0, 3.0, 0.5, 700.0, 60.0]).double()
    together = exact.velocity(x, t)
    for k in range(6):
        torch.testing.assert_close(
            together[k : k + 1], exact.velocity(x[k : k + 1], t[k : k + 1]), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("t", [0.0, 40.0, 300.5])
def test_the_entropy_of_samples_is_that_of_the_density(t: float) -> None:
    # E[-log p_t] over samples, against the sum of -p log p over a grid.
    exact = spiral(noise=0.1)
    n = 20_000
    samples = exact.sample(n, t, generator=stream(0, "entropy"))
    surprise = -exact.log_density(samples, t)
    side, step = grid_around(exact, t)
    grid = torch.cartesian_prod(side, side)
    log_p = exact.log_density(grid, t)
    entropy = -float((log_p.exp() * log_p).sum()) * step**2
    assert float(surprise.mean()) == pytest.approx(
        entropy, abs=4 * float(surprise.std()) / math.sqrt(n)
    )


def test_the_error_of_the_posterior_mean_is_orthogonal_to_it() -> None:
    exact = spiral()
    clean = SCALING.to_model(SPIRAL.sample(4000, 0.02, generator=stream(0, "clean")))
    eps = torch.randn(4000, 2, dtype=torch.float64, generator=stream(0, "eps"))
    for t in (5, 50, 500):
        x_t = q_sample(exact.schedule, clean, t, eps)
        # True of the best denoiser alone, for points of the forward process.
        x0_hat = exact.posterior_mean(x_t, t)
        product = ((clean - x0_hat) * x0_hat).sum(1)
        assert abs(float(product.mean())) < 4 * float(product.std()) / math.sqrt(4000)


def test_without_signal_the_posterior_mean_is_the_mean_of_the_data() -> None:
    schedule = shipped_schedule("linear", 100).without_terminal_signal()
    exact = spiral(schedule=schedule)
    x = torch.randn(9, 2, dtype=torch.float64, generator=stream(0, "x"))
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64)
    mean = SCALING.to_model(SPIRAL.points(u)).mean(0).expand(9, 2)
    torch.testing.assert_close(exact.posterior_mean(x, 100), mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(exact.denoiser.velocity(x, 100), -mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(exact.score(x, 100), -x)
    expected = -x.square().sum(1) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close(exact.log_density(x, 100), expected)


@pytest.mark.parametrize("t", TIMES)
def test_the_velocity_is_differentiated_in_closed_form(t: float) -> None:
    exact = mixed()
    x = exact.sample(5, t, generator=stream(0, "x"))
    v, jacobian = exact.velocity_with_jacobian(x, t)
    torch.testing.assert_close(v, exact.velocity(x, torch.tensor([t]).double()))
    torch.testing.assert_close(jacobian, jacobian.mT)

    def velocity(x: Tensor) -> Tensor:
        return exact.velocity(x, torch.tensor([t]).double())

    scale = width_at(exact, t)
    h = 1e-4 * scale
    columns = [(velocity(x + h * e) - velocity(x - h * e)) / (2 * h) for e in torch.eye(2).double()]
    torch.testing.assert_close(jacobian, torch.stack(columns, dim=2), rtol=1e-5, atol=1e-6 / scale)


def test_points_that_are_not_finite_are_not_an_error() -> None:
    # Samples of a network that has diverged.
    x = torch.tensor([[math.inf, 0], [math.nan, 1], [1e30, 1e30], [0.1, 0.2]]).double()
    values = spiral().log_density(x, 0)
    assert values.isfinite().tolist() == [False, False, True, True]
