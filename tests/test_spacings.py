import itertools
import math

import pytest
from conftest import shipped_schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.core.errors import UserError
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.sampling.spacings import (
    OPTIMISED,
    SPACINGS,
    choose_spacing,
    require_terminal_signal,
    sampling_times,
)


@settings(deadline=None)
@given(st.sampled_from(list(SPACINGS)), st.sampled_from(list(SCHEDULES)), st.data())
def test_times_decrease_and_stay_in_the_range_of_the_schedule(
    spacing: str, name: str, data: st.DataObject
) -> None:
    T = data.draw(st.integers(30, 300))
    schedule = shipped_schedule(name, T)
    steps = data.draw(st.integers(1, T))
    times = sampling_times(spacing, schedule, steps)
    assert len(times) == steps
    assert times[-1] > 0
    assert times[0] <= T
    assert all(t > s for t, s in itertools.pairwise(times))


def test_times_are_those_that_define_each_spacing() -> None:
    schedule = shipped_schedule("linear", 1000)
    expected = {
        "trailing": [1000, 800, 600, 400, 200],
        "leading": [801, 601, 401, 201, 1],
        "linspace": [1000, 750.25, 500.5, 250.75, 1],
        "quadratic": [1000, 640, 360, 160, 40],
    }
    for spacing, times in expected.items():
        assert sampling_times(spacing, schedule, 5) == pytest.approx(times)
    small = shipped_schedule("linear", 50)
    for spacing in ("trailing", "leading", "linspace"):
        assert sampling_times(spacing, small, 50) == list(range(50, 0, -1))
    for spacing in ("trailing", "linspace", "log_snr", "karras"):
        assert sampling_times(spacing, schedule, 1) == [1000]


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_and_karras_are_equally_spaced_in_their_own_measure(name: str) -> None:
    schedule = shipped_schedule(name, 1000)
    measures = {
        "log_snr": lambda log_snr: log_snr,
        "karras": lambda log_snr: math.exp(-log_snr / 14),
    }
    assert set(measures) == {name for name, spacing in SPACINGS.items() if spacing.uses_log_snr}
    for spacing, measure in measures.items():
        times = sampling_times(spacing, schedule, 9)
        assert times[0] == 1000
        assert times[-1] == pytest.approx(1)
        strides = [
            measure(schedule.log_snr_at(s)) - measure(schedule.log_snr_at(t))
            for t, s in itertools.pairwise(times)
        ]
        assert strides == pytest.approx([strides[0]] * 8, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMISED)
def test_optimised_times_are_those_of_their_file(name: str) -> None:
    schedule = shipped_schedule("linear", 100)
    optimised = {name: {"2": [100.0, 7.5]}}
    assert sampling_times(name, schedule, 2, optimised) == [100.0, 7.5]
    with pytest.raises(
        UserError, match=rf"sample\.steps is 3 but {name} has been optimised for 2; change"
    ):
        sampling_times(name, schedule, 3, optimised)
    with pytest.raises(UserError, match=rf"{name} has been optimised for nothing yet; change"):
        sampling_times(name, schedule, 2)
    with pytest.raises(UserError, match=r"starts at t = 100 but the schedule has T = 50; optimise"):
        sampling_times(name, shipped_schedule("linear", 50), 2, optimised)


def test_an_unknown_spacing_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"sample\.spacing is 'even' but should be one of traili"):
        sampling_times("even", shipped_schedule("linear", 50), 5)
    with pytest.raises(UserError, match=r"spacing is 'even' but .*karras, .*optimised_truth, opt"):
        choose_spacing("spacing", "even")
    for name in (*SPACINGS, *OPTIMISED):
        assert choose_spacing("spacing", name) == name


@pytest.mark.parametrize("steps", [0, 51])
def test_more_steps_than_the_schedule_has_are_refused(steps: int) -> None:
    schedule = shipped_schedule("linear", 50)
    with pytest.raises(ValueError, match=rf"steps is {steps} but should be in 1 \.\.\. 50"):
        sampling_times("trailing", schedule, steps)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_only_a_spacing_in_log_snr_is_refused_where_that_is_infinite(spacing: str) -> None:
    schedule = shipped_schedule("linear", 50)
    require_terminal_signal(schedule, "anything")
    if SPACINGS[spacing].uses_log_snr:
        with pytest.raises(UserError, match=rf"spacing {spacing} works in log SNR but with"):
            sampling_times(spacing, schedule.without_terminal_signal(), 5)
    else:
        assert len(sampling_times(spacing, schedule.without_terminal_signal(), 5)) == 5
