from typing import Any

import pytest
import torch
from conftest import changed
from exact_cases import gaussian_subject

from ddpm.comparison import (
    COLUMNS,
    Cell,
    Judge,
    cells_of,
    cells_to_run,
    compare,
    has_meaning,
    steps_of,
)
from ddpm.errors import UserError
from ddpm.metrics import beside_floor, energy_distance, mean_distances_within
from ddpm.params import Params
from ddpm.runtime import stream

T = 60


def params_of(small: dict[str, Any], **changes: object) -> Params:
    return Params.model_validate(changed(small, **{"diffusion.T": T, "compare.n": 300, **changes}))


def test_cells_are_read_from_their_names(small: dict[str, Any]) -> None:
    cells = cells_of({"ddim/trailing": (5, 10), "heun/karras": (9,)})
    assert cells == [
        Cell("ddim", "trailing", 5),
        Cell("ddim", "trailing", 10),
        Cell("heun", "karras", 9),
    ]
    params = params_of(small)
    assert [steps_of(cell, params) for cell in cells] == [5, 10, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("euler/trailing", r"the sampler of compare\.cells\.euler/trailing is 'euler' but should"),
        ("ddim/even", r"the spacing of compare\.cells\.ddim/even is 'even' but should be one of t"),
        ("ddim", r"the spacing of compare\.cells\.ddim is '' but should be one of trailing"),
    ],
)
def test_cells_of_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells_of({name: (5,)})


def test_a_cell_has_meaning_where_its_steps_and_its_log_snr_are_there(
    small: dict[str, Any],
) -> None:
    params, schedule = params_of(small), gaussian_subject(T=T).truth.schedule
    dark = schedule.without_signal_at_end()
    for cell, bright_too, dark_too in (
        (Cell("ddim", "trailing", 60), True, True),
        (Cell("ddim", "trailing", 61), False, False),
        (Cell("heun", "trailing", 61), True, False),
        (Cell("ddim", "log_snr", 5), True, False),
        (Cell("ddim", "optimised_truth", 5), True, False),
        (Cell("unipc", "trailing", 5), True, False),
        (Cell("ode", "trailing", 1), True, True),
    ):
        assert has_meaning(cell, params, schedule) == bright_too, cell
        assert has_meaning(cell, params, dark) == dark_too, cell


def test_a_number_of_steps_is_run_once(small: dict[str, Any]) -> None:
    params, schedule = params_of(small), gaussian_subject(T=T).truth.schedule
    listed = cells_of({"heun/karras": (9, 10, 11), "ddim/trailing": (5, 5, 99)})
    assert [(c.sampler, steps_of(c, params)) for c in cells_to_run(listed, params, schedule)] == [
        ("heun", 5),
        ("heun", 6),
        ("ddim", 5),
    ]


def test_every_row_has_what_its_cell_has_cost_and_measures(small: dict[str, Any]) -> None:
    subject = gaussian_subject(T=T)
    params = params_of(small, **{"compare.exact_up_to": 20})
    judge = Judge(subject, 300, null_pairs=5, directions=8)
    cells = [
        Cell("ddim", "trailing", 2),
        Cell("unipc", "optimised_model", 3),
        Cell("heun", "karras", 10),
        Cell("ddpm", "trailing", 40),
    ]
    spacings = {"optimised_model": {"3": [60.0, 20.0, 3.0]}}
    compared = compare(subject, params, cells, spacings, judge)
    rows = [one.row() for one in compared]
    assert all(tuple(row) == COLUMNS for row in rows)
    seen = [(row["sampler"], row["evaluations"], row["denoiser"]) for row in rows]
    assert seen == [
        ("ddim", 2, "network"),
        ("ddim", 2, "exact"),
        ("unipc", 3, "network"),
        ("unipc", 3, "exact"),
        ("heun", 9, "network"),
        ("heun", 9, "exact"),
        ("ddpm", 40, "network"),
    ]
    # The model is exact here, and every cell starts from the same noise.
    assert rows[0]["energy_distance"] == rows[1]["energy_distance"]
    # Two steps of DDIM make too narrow a Gaussian, forty of DDPM do not.
    assert rows[0]["energy_distance"] > rows[0]["energy_distance_floor"] + 5 * 0.003
    last = rows[-1]
    off = last["energy_distance"] - last["energy_distance_floor"]
    assert abs(off) < 4 * last["energy_distance_se"]
    assert abs(last["log_density"] - last["log_density_truth"]) < 0.6


def test_a_known_part_of_the_distance_changes_no_bit() -> None:
    x, y = torch.randn(2, 200, 2, dtype=torch.float64, generator=stream(0, "xy"))
    assert energy_distance(x, y, mean_distances_within(y)) == energy_distance(x, y)
    subject = gaussian_subject(T=T)
    judge = Judge(subject, 200, null_pairs=4, directions=8)
    points = subject.scaling.to_data(subject.fresh(200, "judged"))
    true = [subject.scaling.to_data(subject.fresh(200, f"compare/true/{k}")) for k in range(9)]
    pairs = [energy_distance(true[2 * k + 1], true[2 * k + 2]) for k in range(4)]
    expected = beside_floor(energy_distance(points, true[0]), pairs)
    found = judge(points)
    assert found["energy_distance"] == expected.value
    assert found["energy_distance_se"] == expected.se
    assert found["energy_distance_floor"] == expected.floor
