import math

import pytest
import torch
from conftest import shipped_schedule
from torch.distributions import MultivariateNormal, kl_divergence

from ddpm.diffusion.process import diffuse, posterior, prior_gap, q_sample, q_step
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return shipped_schedule(request.param, 60)


def test_single_steps_add_up_to_the_closed_form(schedule: Schedule) -> None:
    # Without noise a step multiplies the mean; the variance follows var -> (1 - beta) var + beta.
    one, zero = torch.ones(1, 2).double(), torch.zeros(1, 2).double()
    mean, variance = one, 0.0
    for t in range(1, schedule.T + 1):
        mean = q_step(schedule, mean, t, zero)
        noise = float(q_step(schedule, zero, t, one)[0, 0])
        variance = variance * float(q_step(schedule, one, t, zero)[0, 0]) ** 2 + noise**2
        torch.testing.assert_close(mean, q_sample(schedule, one, t, zero))
        assert math.sqrt(variance) == pytest.approx(float(q_sample(schedule, zero, t, one)[0, 0]))


def test_each_point_may_have_its_own_time(schedule: Schedule, generator: torch.Generator) -> None:
    x0, eps = torch.randn(2, 3, 2, generator=generator).unbind()
    t = torch.tensor([0, 20, 60])
    together = q_sample(schedule, x0, t, eps)
    for k in range(3):
        alone = q_sample(schedule, x0[k : k + 1], int(t[k]), eps[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone)
    assert torch.equal(together[0], x0[0])
    assert together.dtype == torch.float32


def test_diffusing_returns_the_times_asked_for_and_agrees_with_the_closed_form(
    generator: torch.Generator,
) -> None:
    schedule = shipped_schedule("scaled_linear", 40)
    x0 = torch.full((20_000, 2), 3.0).double()
    points_at = diffuse(schedule, x0, {0, 17, 40}, generator=generator)
    assert list(points_at) == [0, 17, 40]
    assert torch.equal(points_at[0], x0)
    for t in (17, 40):
        n, a, sigma = x0.numel(), float(schedule.alpha_bar[t].sqrt()), float(schedule.sigma[t])
        assert float(points_at[t].mean()) == pytest.approx(3 * a, abs=4 * sigma / math.sqrt(n))
        assert float(points_at[t].std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize(("t", "s"), [(60, 59), (60, 20), (31, 30), (2, 1)])
def test_the_posterior_follows_bayes_rule(schedule: Schedule, t: int, s: int) -> None:
    # q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): precisions add.
    ratio = float(schedule.alpha_bar[t] / schedule.alpha_bar[s])
    a_s, var_s = float(schedule.alpha_bar[s].sqrt()), float(schedule.sigma[s] ** 2)
    precision = ratio / (1 - ratio) + 1 / var_s
    q = posterior(schedule, t, s)
    assert q.variance == pytest.approx(1 / precision)
    assert q.weight_x_t == pytest.approx(math.sqrt(ratio) / (1 - ratio) / precision)
    assert q.weight_x0 == pytest.approx(a_s / var_s / precision)
    assert q.beta == pytest.approx(1 - ratio)


def test_the_posterior_of_data_is_the_data(schedule: Schedule) -> None:
    for t in (1, 30, 60):
        q = posterior(schedule, t, 0)
        assert q.weight_x0 == pytest.approx(1)
        assert (q.weight_x_t, q.variance) == (0, 0)


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (61, 3), (3, -1)])
def test_a_posterior_that_does_not_go_back_is_refused(schedule: Schedule, t: int, s: int) -> None:
    with pytest.raises(ValueError, match=rf"t is {t} and s is {s} but should be 0 <= s < t <= 60"):
        posterior(schedule, t, s)


def test_the_prior_gap_is_the_mean_divergence(
    schedule: Schedule, generator: torch.Generator
) -> None:
    x0 = torch.randn(7, 2, generator=generator).double()
    alpha_bar, eye = schedule.alpha_bar[-1], torch.eye(2).double()
    ends = MultivariateNormal(alpha_bar.sqrt() * x0, (1 - alpha_bar) * eye)
    expected = kl_divergence(ends, MultivariateNormal(torch.zeros(2).double(), eye)).mean()
    assert float(prior_gap(schedule, x0).mean()) == pytest.approx(float(expected), rel=1e-6)


def test_the_prior_gap_tells_noise_from_the_blogs_schedule(generator: torch.Generator) -> None:
    x0 = torch.randn(1000, 2, generator=generator)
    assert float(prior_gap(shipped_schedule("linear"), x0).mean()) < 1e-4
    assert float(prior_gap(shipped_schedule("first_principles"), x0).mean()) > 3
