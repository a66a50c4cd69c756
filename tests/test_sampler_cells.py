from collections.abc import Mapping

import pytest
from exact_cases import gaussian_model

from ddpm.core.errors import UserError
from ddpm.sampling.sampler import Sampler
from ddpm.studies.sampler_cells import (
    Cell,
    is_valid,
    parse_cells,
    plan,
    reference_cell,
    steps_of,
    valid_cells,
)

T = 60


def test_cells_are_parsed_from_their_names(samplers: Mapping[str, Sampler]) -> None:
    cells = parse_cells({"ddim/trailing": (5, 10), "heun/karras": (9,)})
    assert cells == [
        Cell("ddim", "trailing", 5),
        Cell("ddim", "trailing", 10),
        Cell("heun", "karras", 9),
    ]
    assert [steps_of(cell, samplers) for cell in cells] == [5, 10, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "magic/trailing",
            r"the sampler of compare_samplers\.cells\.magic/trailing is 'magic' but should be one",
        ),
        (
            "ddim/even",
            r"the spacing of compare_samplers\.cells\.ddim/even is 'even' but should be one of t",
        ),
        (
            "ddim",
            r"the spacing of compare_samplers\.cells\.ddim is '' but should be one of trailing",
        ),
    ],
)
def test_cells_of_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_cells({name: (5,)})


@pytest.mark.parametrize(
    ("cell", "valid", "valid_without_signal"),
    [
        (Cell("ddim", "trailing", 60), True, True),
        (Cell("ddim", "trailing", 61), False, False),
        (Cell("heun", "trailing", 61), True, False),
        (Cell("ddim", "log_snr", 5), True, False),
        (Cell("ddim", "optimised_truth", 5), True, False),
        (Cell("unipc", "trailing", 5), True, False),
        (Cell("ode", "trailing", 1), True, True),
    ],
)
def test_a_cell_is_valid_if_the_schedule_has_its_steps_and_its_log_snr(
    samplers: Mapping[str, Sampler], cell: Cell, valid: bool, valid_without_signal: bool
) -> None:
    schedule = gaussian_model(T=T).schedule
    assert is_valid(cell, samplers, schedule) == valid
    without_signal = schedule.without_terminal_signal()
    assert is_valid(cell, samplers, without_signal) == valid_without_signal


def test_each_number_of_steps_is_run_once(samplers: Mapping[str, Sampler]) -> None:
    listed = parse_cells({"heun/karras": (9, 10, 11), "ddim/trailing": (5, 5, 99)})
    cells = valid_cells(listed, samplers, gaussian_model(T=T).schedule)
    steps = [(cell.sampler, steps_of(cell, samplers)) for cell in cells]
    assert steps == [("heun", 5), ("heun", 6), ("ddim", 5)]


def test_a_sampler_in_log_snr_is_refused_on_a_schedule_without_terminal_signal(
    samplers: Mapping[str, Sampler],
) -> None:
    schedule = gaussian_model(T=T).schedule.without_terminal_signal()
    with pytest.raises(UserError, match="sampler unipc"):
        plan(Cell("unipc", "trailing", 5), samplers, schedule, {})


def test_the_reference_is_the_costliest_cell_of_its_name() -> None:
    cells = parse_cells({"ddim/trailing": (5, 50, 10), "heun/karras": (99,)})
    assert reference_cell("ddim/trailing", cells) == Cell("ddim", "trailing", 50)
    message = r"reference is 'ode/trailing' but the cells that can run on this schedule are ddim/tr"
    with pytest.raises(UserError, match=message):
        reference_cell("ode/trailing", cells)
