import itertools
import math

import pytest
from conftest import shipped_schedule
from hypothesis import given
from hypothesis import strategies as st

from ddpm.errors import UserError
from ddpm.schedules import SCHEDULES
from ddpm.spacings import (
    OPTIMISED,
    SPACINGS,
    log_snr_at,
    moments,
    time_of_log_snr,
)


@given(st.sampled_from(list(SPACINGS)), st.sampled_from(list(SCHEDULES)), st.data())
def test_times_fall_from_the_last_at_most(spacing: str, name: str, data: st.DataObject) -> None:
    T = data.draw(st.integers(30, 300))
    schedule = shipped_schedule(name, T)
    steps = data.draw(st.integers(1, T))
    times = moments(spacing, schedule, steps)
    assert len(times) == steps
    assert times[-1] > 0
    assert times[0] <= T
    assert all(t > s for t, s in itertools.pairwise(times))


def test_times_are_where_each_spacing_says() -> None:
    schedule = shipped_schedule("linear", 1000)
    expected = {
        "trailing": [1000, 800, 600, 400, 200],
        "leading": [801, 601, 401, 201, 1],
        "linspace": [1000, 750.25, 500.5, 250.75, 1],
        "quadratic": [1000, 640, 360, 160, 40],
    }
    for spacing, times in expected.items():
        assert moments(spacing, schedule, 5) == pytest.approx(times)
    small = shipped_schedule("linear", 50)
    for spacing in ("trailing", "leading", "linspace"):
        assert moments(spacing, small, 50) == list(range(50, 0, -1))
    for spacing in ("trailing", "linspace", "log_snr", "karras"):
        assert moments(spacing, schedule, 1) == [1000]


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_and_karras_are_even_in_their_own_measure(name: str) -> None:
    schedule = shipped_schedule(name, 1000)
    measures = {
        "log_snr": lambda value: value,
        "karras": lambda value: math.exp(-value / 14),
    }
    for spacing, measure in measures.items():
        times = moments(spacing, schedule, 9)
        assert times[0] == 1000
        assert times[-1] == pytest.approx(1)
        strides = [
            measure(log_snr_at(schedule, s)) - measure(log_snr_at(schedule, t))
            for t, s in itertools.pairwise(times)
        ]
        assert strides == pytest.approx([strides[0]] * 8, rel=1e-5)


@pytest.mark.parametrize("t", [1e-3, 1.0, 333.3, 999.0])
def test_time_and_log_snr_are_each_others_inverse(t: float) -> None:
    schedule = shipped_schedule("cosine", 1000)
    assert time_of_log_snr(schedule, log_snr_at(schedule, t)) == pytest.approx(t, rel=1e-6)


def test_optimised_times_come_from_their_file() -> None:
    schedule = shipped_schedule("linear", 100)
    optimised = {name: {"2": [100.0, 7.5]} for name in OPTIMISED}
    for name in OPTIMISED:
        assert moments(name, schedule, 2, optimised) == [100.0, 7.5]
        with pytest.raises(
            UserError, match=rf"sample\.steps is 3 but {name} has been optimised for 2; ch"
        ):
            moments(name, schedule, 3, optimised)
        with pytest.raises(UserError, match=r"starts at t = 100 but the schedule has T = 50; opti"):
            moments(name, shipped_schedule("linear", 50), 2, optimised)


def test_times_that_cannot_be_are_refused() -> None:
    schedule = shipped_schedule("linear", 50)
    with pytest.raises(UserError, match=r"sample\.spacing is 'even' but should be one of traili"):
        moments("even", schedule, 5)
    for steps in (0, 51):
        with pytest.raises(ValueError, match=rf"steps is {steps} but should be in 1 \.\.\. 50"):
            moments("trailing", schedule, steps)
    for spacing in ("log_snr", "karras"):
        with pytest.raises(UserError, match=rf"spacing {spacing} works in log SNR but with"):
            moments(spacing, schedule.without_signal_at_end(), 5)
