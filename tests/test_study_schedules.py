"""The table of the study over schedules; tests/test_dvc_queue.py runs it in DVC's queue."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from benchmarks.resumable import Results
from benchmarks.study_schedules import FULL, TRIAL, Cell, figure, table
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES


def measured(kl: float) -> dict[str, Any]:
    means = {"kl": kl, "excess_nats": 2 * kl, "exact_kl": 0.001}
    return {name: {"value": value, "se": 0.5} for name, value in means.items()} | {"t": 0}


def test_the_table_has_means_and_standard_deviations_over_seeds() -> None:
    cells = {
        **{Cell("cosine", "v", seed).name: measured(kl) for seed, kl in enumerate([0.1, 0.2, 0.6])},
        **{Cell("linear", "x0", seed).name: measured(kl) for seed, kl in ((0, 0.1), (2, 0.4))},
    }
    results = Results(Path("study.json"), {}, cells)
    assert table(results).splitlines()[2:] == [
        "| linear | x0 | 0.2500 (2 of 3 seeds) | 0.5000 (2 of 3 seeds) | 0.0010 (2 of 3 seeds) |",
        "| cosine | v | 0.3000, sd 0.2646 | 0.6000, sd 0.5292 | 0.0010, sd 0.0000 |",
    ]
    kl, excess = (
        sorted({float(y) for line in axes.lines for y in line.get_ydata()})
        for axes in figure(results).axes
    )
    assert kl == pytest.approx([0.1, 0.2, 0.25, 0.3, 0.4, 0.6])
    assert excess == pytest.approx([2 * height for height in kl])


def test_the_grid_is_complete_and_a_trial_is_not_mistaken_for_it() -> None:
    assert set(FULL.cells) == set(itertools.product(SCHEDULES, PREDICTIONS, range(3)))
    names = {study.experiment(cell) for study in (FULL, TRIAL) for cell in study.cells}
    assert len(names) == len(FULL.cells) + len(TRIAL.cells)
    assert {FULL.file, FULL.figure}.isdisjoint({TRIAL.file, TRIAL.figure})
