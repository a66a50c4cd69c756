import math
from dataclasses import replace

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import MEAN, STD, gaussian_log_density, gaussian_truth
from torch import Tensor

from ddpm.datasets import SPIRAL, Curve, Scaling
from ddpm.process import q_sample
from ddpm.runtime import stream
from ddpm.schedules import SCHEDULES, Schedule
from ddpm.truth import Truth

SCALING = Scaling(torch.tensor([0.0395, -0.1061]).double(), 0.577)
# From data to noise, not only at whole times.
TIMES = (0.0, 0.3, 1.0, 17.5, 60.0, 200.0, 555.5, 1000.0)


def spiral(noise: float = 0.02, schedule: Schedule | None = None) -> Truth:
    return Truth.of_curves(
        [(1.0, SPIRAL)], noise, SCALING, schedule or shipped_schedule("linear", 1000)
    )


def line(u: Tensor) -> Tensor:
    return torch.stack((u, 3 * u + 1), dim=1)


# Two curves, one of them straight: on the scaled line, corner to corner.
MIXED = [(0.25, SPIRAL), (0.75, Curve(raw=line, u_min=-2.0, u_max=2.0))]


def points_at(truth: Truth, t: float, n: int = 200) -> Tensor:
    """Points where p_t is, and some around it."""
    generator = stream(0, f"points/{t}")
    clean = SCALING.to_model(SPIRAL.sample(n, 0.02, generator=generator))
    a, sigma = truth.schedule.levels(t)
    spread = 3 * math.sqrt(sigma**2 + (a * truth.noise) ** 2)
    return a * clean + spread * torch.randn(n, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("t", TIMES)
def test_the_score_is_the_gradient_of_the_log_density(t: float) -> None:
    truth = Truth.of_curves(MIXED, 0.02, SCALING, shipped_schedule("linear", 1000))
    x = points_at(truth, t).requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_density(x, t).sum(), x)
    score = truth.score(x.detach(), t)
    error = (score - gradient).norm(dim=1) / gradient.norm(dim=1).clamp(min=1e-3)
    assert float(error.max()) < 1e-8


@pytest.mark.parametrize("t", [0.0, 20.0, 100.0, 300.0, 1000.0])
def test_the_density_integrates_to_one(t: float) -> None:
    truth = spiral()
    a, sigma = truth.schedule.levels(t)
    width = math.sqrt(sigma**2 + (a * truth.noise) ** 2)
    # The sum over a grid of a smooth function that vanishes at its edge converges geometrically.
    reach, step = 2.6 * a + 7 * width, width / 1.5
    side = torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1).double() * step
    total = sum(
        float(truth.log_density(torch.stack((torch.full_like(side, x), side), 1), t).exp().sum())
        for x in side.tolist()
    )
    assert total * step**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("t", [1.0, 30.0, 200.0, 700.0])
def test_the_posterior_mean_is_that_of_a_brute_force_monte_carlo(t: float) -> None:
    truth = spiral(noise=0.05)
    a, sigma = truth.schedule.levels(t)
    n = 1_000_000
    clean = SCALING.to_model(SPIRAL.sample(n, 0.05, generator=stream(0, "brute")))
    x_t = points_at(truth, t, 4)
    for x in a * clean[:6] + sigma * x_t[0] * 0.3:
        log_weights = -(x - a * clean).square().sum(1) / (2 * sigma**2)
        weights = torch.softmax(log_weights, 0)
        mean = weights @ clean
        se = (weights.square() @ (clean - mean).square()).sqrt()
        found = truth.posterior_mean(x[None], t)[0]
        assert float(((found - mean) / se).abs().max()) < 4.5, (
            t,
            float(1 / weights.square().sum()),
        )


def refined(truth: Truth) -> Truth:
    """The same with nodes four times as dense."""
    return replace(truth, nodes=lambda longest: truth.nodes(longest / 4))


@pytest.mark.parametrize("t", TIMES)
def test_within_ten_standard_deviations_the_quadrature_keeps_its_promise(t: float) -> None:
    truth = Truth.of_curves(MIXED, 0.02, SCALING, shipped_schedule("linear", 1000))
    a, sigma = truth.schedule.levels(t)
    width = math.sqrt(sigma**2 + (a * truth.noise) ** 2)
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 40, dtype=torch.float64)
    directions = torch.tensor([[1.0, 0.0], [-1, 0], [0, 1], [0, -1], [0.6, 0.8], [-0.8, 0.6]])
    offsets = torch.cat([far * width * directions for far in (0, 3, 10)]).double()
    x = (a * SCALING.to_model(SPIRAL.points(u))[:, None] + offsets).reshape(-1, 2)
    error = truth.log_density(x, t) - refined(truth).log_density(x, t)
    assert float(error.abs().max()) < 1e-10


@pytest.mark.parametrize("t", [0.0, 1.0, 30.0])
def test_on_the_spiral_the_promise_holds_against_plain_differences(t: float) -> None:
    # The smallest noise that is allowed, with squares of differences and Simpson's rule.
    truth = spiral(noise=0.001)
    a, sigma = truth.schedule.levels(t)
    variance = (a * truth.noise) ** 2 + sigma**2
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 12, dtype=torch.float64)[3:-3]
    offset = 5 * math.sqrt(variance) * torch.tensor([[1.0, 0.0], [0.0, -2.0]]).double()
    x = (a * SCALING.to_model(SPIRAL.points(u))[:, None] + offset).reshape(-1, 2)
    n = 200_000
    fine = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, n + 1, dtype=torch.float64)
    weights = torch.tensor([2.0, 4.0]).double().repeat(n // 2 + 1)[: n + 1]
    weights[0] = weights[-1] = 1
    places = a * SCALING.to_model(SPIRAL.points(fine))
    exponents = -(x[:, None] - places).square().sum(2) / (2 * variance) + weights.log()
    expected = torch.logsumexp(exponents, 1) - math.log(3 * n * 2 * math.pi * variance)
    assert float((truth.log_density(x, t) - expected).abs().max()) < 1e-9


def test_curves_are_drawn_by_their_weights() -> None:
    truth = Truth.of_curves(MIXED, 0.0, SCALING, shipped_schedule("linear", 100))
    points = SCALING.to_data(truth.sample(4000, 0, generator=stream(0, "mixed")))
    on_line = (points[:, 0] - points[:, 1]).abs() < 1e-9
    assert float(on_line.double().mean()) == pytest.approx(0.75, abs=4 * 0.43 / math.sqrt(4000))


@pytest.mark.parametrize("t", [0.0, 1.0, 100.0, 1000.0])
def test_the_far_field_neither_underflows_nor_is_far_off(t: float) -> None:
    truth = spiral()
    angles = torch.linspace(0, 6, 30, dtype=torch.float64)
    for far in (5.0, 100.0, 1e4):
        x = far * torch.stack((angles.cos(), angles.sin()), 1)
        found, finer = truth.log_density(x, t), refined(truth).log_density(x, t)
        assert bool(found.isfinite().all())
        assert float(((found - finer) / finer).abs().max()) < 5e-3
        assert bool(truth.score(x, t).isfinite().all())


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_tiny_noise_divides_by_nothing(noise: float) -> None:
    schedule = shipped_schedule("cosine", 4000)
    truth = spiral(noise, schedule)
    x = SCALING.to_model(SPIRAL.sample(50, noise, generator=stream(0, "tiny")))
    for t in (1e-2, 1.0):
        for found in (truth.score(x, t), truth.posterior_mean(x, t), truth.log_density(x, t)):
            assert bool(found.isfinite().all())
        # So near to the curve the best guess is close to the point itself.
        off = (truth.posterior_mean(x, t) - x).norm(dim=1)
        assert float(off.max()) < 10 * schedule.levels(t)[1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_on_gaussian_data_everything_is_the_closed_form(name: str) -> None:
    schedule = shipped_schedule(name, 100)
    truth = gaussian_truth(schedule)
    x = torch.randn(50, 2, dtype=torch.float64, generator=stream(0, "gaussian"))
    for t in (0.0, 0.5, 3.0, 50.0, 100.0):
        a, sigma = schedule.levels(t)
        variance = a**2 * STD**2 + sigma**2
        expected = gaussian_log_density(x, a * MEAN, variance)
        torch.testing.assert_close(truth.log_density(x, t), expected, rtol=1e-9, atol=1e-9)
        score = (a * MEAN - x) / variance
        torch.testing.assert_close(truth.score(x, t), score)
        x0 = MEAN + a * STD**2 / variance * (x - a * MEAN)
        torch.testing.assert_close(truth.posterior_mean(x, t), x0)
        v = a * (-sigma * score) - sigma * x0
        torch.testing.assert_close(truth.denoiser.velocity(x, t), v, rtol=1e-9, atol=1e-9)
        if t > 0:
            x0_hat, eps_hat = truth.denoiser(x, t)
            torch.testing.assert_close(x0_hat, x0, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(eps_hat, -sigma * score, rtol=1e-9, atol=1e-9)


def test_curves_weigh_what_they_are_given() -> None:
    # Far along the line there is only the line, with its share of the mass on its length.
    schedule = shipped_schedule("linear", 1000)
    (_, curve) = MIXED[1]
    alone = Truth.of_curves([(1.0, curve)], 0.02, SCALING, schedule)
    mixed = Truth.of_curves(MIXED, 0.02, SCALING, schedule)
    x = SCALING.to_model(curve.points(torch.tensor([1.9], dtype=torch.float64)))
    ratio = mixed.log_density(x, 0) - alone.log_density(x, 0)
    assert float(ratio) == pytest.approx(math.log(0.75), abs=1e-9)


def test_points_of_a_list_are_a_mixture_of_gaussians() -> None:
    schedule = shipped_schedule("linear", 1000)
    points = torch.randn(7, 2, dtype=torch.float64, generator=stream(0, "list"))
    truth = Truth.of_points(points, schedule)
    x = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "at"))
    for t in (20.0, 400.0):
        a, sigma = schedule.levels(t)
        each = torch.stack([gaussian_log_density(x, a * point, sigma**2) for point in points])
        expected = torch.logsumexp(each, 0) - math.log(7)
        torch.testing.assert_close(truth.log_density(x, t), expected)
        torch.testing.assert_close(truth.posterior_mean(x, t), torch.softmax(each, 0).T @ points)
    # With little noise the nearest point is all there is.
    near = truth.posterior_mean(points + 1e-3, 1.0)
    torch.testing.assert_close(near, points)


def test_each_point_may_have_its_own_time() -> None:
    truth = spiral()
    x = points_at(truth, 60.0, 6)
    t = torch.tensor([3.0, 700.0, 3.0, 0.5, 700.0, 60.0]).double()
    together = truth.velocity(x, t)
    for k in range(6):
        torch.testing.assert_close(
            together[k : k + 1], truth.velocity(x[k : k + 1], t[k : k + 1]), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("t", [0.0, 40.0, 300.5])
def test_samples_of_the_process_have_the_densitys_entropy(t: float) -> None:
    # E[-log p_t] over the process, against the sum of -p log p over a grid.
    truth = spiral(noise=0.1)
    a, sigma = truth.schedule.levels(t)
    n = 20_000
    found = truth.sample(n, t, generator=stream(0, "entropy"))
    surprise = -truth.log_density(found, t)
    width = math.sqrt(sigma**2 + (a * truth.noise) ** 2)
    reach, step = 2.6 * a + 7 * width, width / 1.5
    side = torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1).double() * step
    grid = torch.cartesian_prod(side, side)
    log_p = truth.log_density(grid, t)
    entropy = -float((log_p.exp() * log_p).sum()) * step**2
    assert float(surprise.mean()) == pytest.approx(
        entropy, abs=4 * float(surprise.std()) / math.sqrt(n)
    )


def test_the_truth_of_the_schedule_is_the_truth_of_the_process() -> None:
    truth = spiral()
    clean = SCALING.to_model(SPIRAL.sample(4000, 0.02, generator=stream(0, "clean")))
    eps = torch.randn(4000, 2, dtype=torch.float64, generator=stream(0, "eps"))
    for t in (5, 50, 500):
        x_t = q_sample(truth.schedule, clean, t, eps)
        # The best denoiser's error is orthogonal to what it says.
        best = truth.posterior_mean(x_t, t)
        product = ((clean - best) * best).sum(1)
        assert abs(float(product.mean())) < 4 * float(product.std()) / math.sqrt(4000)


def test_where_no_signal_is_left_the_truth_is_the_mean_of_the_data() -> None:
    schedule = shipped_schedule("linear", 100).without_signal_at_end()
    truth = spiral(schedule=schedule)
    x = torch.randn(9, 2, dtype=torch.float64, generator=stream(0, "x"))
    u = torch.linspace(SPIRAL.u_min, SPIRAL.u_max, 100_001, dtype=torch.float64)
    mean = SCALING.to_model(SPIRAL.points(u)).mean(0).expand(9, 2)
    torch.testing.assert_close(truth.posterior_mean(x, 100), mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(truth.denoiser.velocity(x, 100), -mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(truth.score(x, 100), -x)
    expected = -x.square().sum(1) / 2 - math.log(2 * math.pi)
    torch.testing.assert_close(truth.log_density(x, 100), expected)
