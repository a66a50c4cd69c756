import itertools
import math

import numpy as np
import pytest
import torch
from conftest import changed, shipped, shipped_schedule
from diffusers import DDPMScheduler

from ddpm.core.errors import UserError
from ddpm.core.params import Params
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES, ScheduleSettings, Sigmoid, make_schedule
from stages.common.schedule import refuse_eps_without_signal, schedule_of


@pytest.mark.parametrize("T", [50, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_tables_agree_with_each_other(name: str, T: int) -> None:
    schedule = shipped_schedule(name, T)
    assert schedule.T == T
    assert float(schedule.alpha_bar[0]) == 1
    assert float(schedule.beta[0]) == 0
    assert float(schedule.sigma[0]) == 0
    assert bool((schedule.alpha_bar.diff() < 0).all())
    torch.testing.assert_close(schedule.alpha_bar, (1 - schedule.beta).cumprod(0))
    torch.testing.assert_close(schedule.sigma**2 + schedule.alpha_bar, torch.ones(T + 1).double())
    snr = schedule.alpha_bar[1:] / schedule.sigma[1:] ** 2
    torch.testing.assert_close(schedule.log_snr[1:].exp(), snr, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("linear", {"beta_schedule": "linear"}),
        (
            "scaled_linear",
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
        (
            "first_principles",
            {"beta_schedule": "linear", "beta_start": 8e-6, "beta_end": 9e-5},
        ),
    ],
)
def test_alpha_bar_equals_that_of_diffusers(name: str, theirs: dict[str, object]) -> None:
    # Theirs are float32 products of a thousand factors.
    expected = DDPMScheduler(num_train_timesteps=1000, **theirs).alphas_cumprod
    difference = shipped_schedule(name).alpha_bar[1:] - expected.double()
    assert float(difference.abs().max()) < 1e-6


def test_sigmoid_follows_its_closed_form_until_beta_is_clipped() -> None:
    def g(r: float) -> float:
        return 1 / (1 + math.exp(-(-3 + 6 * r)))

    alpha_bar = shipped_schedule("sigmoid").alpha_bar
    for t in (1, 250, 500, 999):
        expected = (g(1) - g(t / 1000)) / (g(1) - g(0))
        assert float(alpha_bar[t]) == pytest.approx(expected, rel=1e-9)
    assert float(alpha_bar[1000] / alpha_bar[999]) == pytest.approx(1e-3)


def test_small_noise_keeps_its_digits() -> None:
    # 1 - (1 - 1e-9)^t in float64 would keep seven digits of these.
    schedule = Schedule.from_betas(torch.full((3,), 1e-9, dtype=torch.float64))
    expected = np.sqrt([1e-9, 2e-9 - 1e-18, 3e-9 - 3e-18])
    np.testing.assert_allclose(schedule.sigma[1:].numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(("name", "smallest"), [("linear", 21), ("scaled_linear", 13)])
def test_a_number_of_steps_that_is_too_small_is_refused_with_the_smallest_that_works(
    name: str, smallest: int
) -> None:
    for T in (smallest - 1, max(2, smallest // 2)):
        with pytest.raises(UserError, match=rf"diffusion\.T is {T} .* to at least {smallest}$"):
            shipped_schedule(name, T)
    assert smallest == shipped_schedule(name, smallest).T


@pytest.mark.parametrize("name", ["cosine", "sigmoid", "first_principles"])
def test_clipped_and_small_steps_allow_any_number_of_them(name: str) -> None:
    for T in (1, 2, 3):
        assert float(shipped_schedule(name, T).beta.max()) < 1


def test_an_unknown_schedule_is_refused_with_the_choices() -> None:
    params = Params.model_validate(changed(shipped(), schedule="cosinus"))
    with pytest.raises(UserError, match=r"schedule is 'cosinus' but should be one of linear, .*co"):
        schedule_of(params)


def test_a_schedule_without_its_settings_is_refused() -> None:
    params = Params.model_validate(changed(shipped(), **{"schedules.linear": None}))
    with pytest.raises(UserError, match=r"schedules\.linear is missing; add it to params\.yaml"):
        schedule_of(params)


def test_a_schedule_without_noise_is_refused() -> None:
    # The sigmoid is 1 to float64's last digit all the way.
    settings = Sigmoid(start=50, end=100, tau=1, beta_max=0.999)
    with pytest.raises(UserError, match=r"Sigmoid\(.* has betas from nan to nan at T = 100 but"):
        make_schedule(settings, 100)


class Constant(ScheduleSettings):
    """The same beta at every step, whatever their number."""

    value: float

    def betas(self, T: int) -> torch.Tensor:
        return torch.full((T,), self.value, dtype=torch.float64)


@pytest.mark.parametrize("value", [-0.1, 0.0, 1.0, 1.5])
@pytest.mark.parametrize("T", [10, 2000])
def test_settings_that_no_number_of_steps_helps_are_refused(value: float, T: int) -> None:
    with pytest.raises(
        UserError, match=rf"Constant\(value={value}\) has betas from {value:.4g} .* at T = {T} but"
    ) as refused:
        make_schedule(Constant(value=value), T)
    assert "change its settings under schedules" in str(refused.value)


def test_one_step_alone_cannot_end_without_signal() -> None:
    settings = SCHEDULES["cosine"].model_validate(shipped()["schedules"]["cosine"])
    assert not make_schedule(settings, 2, zero_terminal_snr=True).has_terminal_signal
    with pytest.raises(UserError, match=r"zero_terminal_snr is true but diffusion\.T is 1; raise"):
        make_schedule(settings, 1, zero_terminal_snr=True)


def test_eps_is_refused_where_no_signal_is_left() -> None:
    values = changed(shipped(), **{"diffusion.zero_terminal_snr": True, "prediction": "v"})
    refuse_eps_without_signal(Params.model_validate(values))
    refuse_eps_without_signal(Params.model_validate(changed(shipped(), prediction="eps")))
    with pytest.raises(
        UserError, match=r"zero_terminal_snr is true but prediction is eps, from wh"
    ):
        refuse_eps_without_signal(Params.model_validate(changed(values, prediction="eps")))


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_terminal_signal_the_amplitude_is_shifted_and_scaled(name: str) -> None:
    values = changed(shipped(), **{"diffusion.zero_terminal_snr": True, "schedule": name})
    rescaled, schedule = schedule_of(Params.model_validate(values)), shipped_schedule(name)
    assert schedule.has_terminal_signal
    assert not rescaled.has_terminal_signal
    assert rescaled.levels(1000) == (0, 1)
    root, before = rescaled.sqrt_alpha_bar, schedule.sqrt_alpha_bar
    assert float(root[0]) == 1
    assert float(root[1]) == pytest.approx(float(before[1]), rel=1e-14)
    # The same map from 1 ... T to the new amplitudes at every step: affine.
    slope = (root[1] - root[-1]) / (before[1] - before[-1])
    torch.testing.assert_close(root[1:] - root[-1], slope * (before[1:] - before[-1]))


def test_without_terminal_signal_alpha_bar_equals_that_of_diffusers() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, rescale_betas_zero_snr=True)
    ours = shipped_schedule("linear").without_terminal_signal().alpha_bar[1:]
    assert float((ours - theirs.alphas_cumprod.double()).abs().max()) < 1e-6


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_time_of_a_log_snr_is_found_again(name: str) -> None:
    schedule = shipped_schedule(name)
    for t in (1e-3, 0.7, 1, 33.3, 500, 999.9, 1000):
        a, sigma = schedule.levels(t)
        assert schedule.log_snr_at(t) == pytest.approx(2 * math.log(a / sigma), rel=1e-6)
        assert schedule.time_of_log_snr(schedule.log_snr_at(t)) == pytest.approx(t, rel=1e-6)
    for t in (1, 500, 1000):
        assert schedule.log_snr_at(t) == pytest.approx(float(schedule.log_snr[t]), rel=1e-9)


@pytest.mark.parametrize("T", [1, 2, 3, 60, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_between_the_integers_alpha_bar_falls_and_meets_the_table(name: str, T: int) -> None:
    try:
        schedule = shipped_schedule(name, T)
    except UserError:
        assert T < 60
        pytest.skip("the schedule needs more steps")
    for t in {0, 1, T // 2, T}:
        assert schedule.log_alpha_bar_at(t) == pytest.approx(
            float(schedule.log_alpha_bar[t]), rel=1e-15
        )
        a, sigma = schedule.levels(t)
        assert a == pytest.approx(float(schedule.sqrt_alpha_bar[t]), rel=1e-14)
        assert sigma == pytest.approx(float(schedule.sigma[t]), rel=1e-14)
    fine = [schedule.log_alpha_bar_at(T * k / 3001) for k in range(3002)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(fine))
    for t in (1e-6 * T, 0.3 * T, 0.777 * T, T):
        assert schedule.time_of(schedule.log_alpha_bar_at(t)) == pytest.approx(t, rel=1e-9)
    assert schedule.time_of(schedule.log_alpha_bar_at(T) - 1) == T


@pytest.mark.parametrize("terminal_signal", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_levels_of_many_times_are_those_of_each(name: str, terminal_signal: bool) -> None:
    schedule = shipped_schedule(name)
    if not terminal_signal:
        schedule = schedule.without_terminal_signal()
    t = torch.tensor([[0.0, 1e-6, 0.5, 1.0, 1.5], [77.7, 998.9, 999.0, 999.5, 1000.0]])
    t = t.double()
    a, sigma = schedule.levels_of(t)
    levels = [schedule.levels(time) for time in t.flatten().tolist()]
    expected = torch.tensor(levels, dtype=torch.float64)
    assert a.shape == sigma.shape == t.shape
    torch.testing.assert_close(a.flatten(), expected[:, 0], rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(sigma.flatten(), expected[:, 1], rtol=1e-13, atol=1e-12)


def test_interpolating_a_smooth_schedule_is_of_third_order() -> None:
    # Halfway between the entries of a table, against the function that the table was taken from.
    errors = []
    for T in (50, 100, 200):
        r = torch.arange(T + 1, dtype=torch.float64) / T
        schedule = Schedule(-3 * r - 2 * torch.sin(2 * r))
        # The first and the last cell too, whose outer slopes look inwards.
        middles = [(k + 0.5) / T for k in range(T)]
        errors.append(
            max(
                abs(schedule.log_alpha_bar_at(m * T) + 3 * m + 2 * math.sin(2 * m)) for m in middles
            )
        )
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("t", [-0.1, 1000.001, math.nan])
def test_a_time_outside_the_schedule_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match=r"but should be in \[0, 1000\]"):
        shipped_schedule("linear").log_alpha_bar_at(t)
