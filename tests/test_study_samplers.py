import itertools
import math
from pathlib import Path

import pytest
import torch
from conftest import write_params
from exact_cases import STD, gaussian_model
from torch import Tensor

from benchmarks import study_samplers
from benchmarks.published_spacings import (
    Grid,
    align_your_steps,
    gits,
    published_spacings,
    shortest_path,
)
from benchmarks.resumable import Results
from benchmarks.study_samplers import FULL, TRIAL, Study, measure, spacings_table, table
from ddpm.core.compute import stream


def test_the_shortest_path_is_the_shortest_of_all() -> None:
    costs = torch.rand(8, 8, generator=stream(0, "costs")).double()
    for steps in range(1, 8):
        paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), steps - 1)]
        lengths = [sum(float(costs[a, b]) for a, b in itertools.pairwise(path)) for path in paths]
        shortest = paths[lengths.index(min(lengths))]
        assert shortest_path(costs, steps) == list(shortest[:-1])


def test_published_spacings_are_decreasing_times_from_the_end() -> None:
    model = gaussian_model(T=1000)
    for by_steps in published_spacings(model, (1, 5, 20), n=50).values():
        for steps, times in by_steps.items():
            assert len(times) == int(steps)
            assert times[0] == 1000
            assert all(t > s for t, s in itertools.pairwise((*times, 0)))


SIGMAS = (20.0, 5.0, 1.0, 0.3, 0.1)


def times_of(model_sigmas: tuple[float, ...]) -> tuple[list[float], Tensor]:
    schedule = gaussian_model(T=1000).schedule
    times = [schedule.time_of_log_snr(-2 * math.log(sigma)) for sigma in model_sigmas]
    return times, torch.tensor(model_sigmas).double()


def test_the_cost_of_align_your_steps_is_known_for_gaussian_data() -> None:
    model = gaussian_model(T=1000)
    sigmas = [20.0 * 0.5**k for k in range(9)]
    times, squares = times_of(tuple(sigmas))[0], torch.tensor(sigmas).double() ** 2
    costs = align_your_steps(model, Grid(sigmas, times), 20_000)
    shrink = STD**2 / (STD**2 + squares)
    # The denoiser is mean + shrink (y - mean), and the noisier point has independent noise on top.
    for i, j in ((0, 3), (2, 5), (4, 8)):
        expected = sum(
            2
            * math.log(2)
            / squares[m]
            * (
                (shrink[m] - shrink[i]) ** 2 * (STD**2 + squares[m])
                + shrink[i] ** 2 * (squares[i] - squares[m])
            )
            for m in range(i, j + 1)
        )
        assert float(costs[i, j]) == pytest.approx(float(expected), rel=0.05)


def test_the_cost_of_gits_is_known_for_gaussian_data() -> None:
    model = gaussian_model(T=1000)
    times, sigmas = times_of(SIGMAS)
    costs = gits(model, Grid(SIGMAS, times), 5000)
    # Along the flow y - mean grows like the standard deviation of y; its mean length is
    # sqrt(pi / 2) of these.
    stds = (STD**2 + sigmas**2).sqrt()
    for i, j in itertools.combinations(range(len(SIGMAS)), 2):
        shrink = STD**2 / stds[i] ** 2
        step = shrink + sigmas[j] / sigmas[i] * (1 - shrink)
        expected = math.sqrt(math.pi / 2) * (step * stds[i] - stds[j]).abs()
        assert float(costs[i, j]) == pytest.approx(float(expected), rel=0.05)


def test_a_seed_is_measured_once_and_both_tables_hold_it(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, small)
    monkeypatch.chdir(tmp_path)
    cells = {
        **{f"unipc/{spacing}": (5,) for spacing in ("log_snr", "gits", "optimised_truth")},
        **{"ddpm/trailing": (10,), "ode/trailing": (1,)},
    }
    study = Study(range(2), cells, {}, 20, tmp_path / "study_samplers.json")
    measure(study)
    results = Results.read(study.file)
    rows = table(study, results).splitlines()[2:]
    assert len(rows) == 2 * 5
    assert all(("nan" in row) is False for row in rows)
    assert [row.split("|")[5].strip() == "" for row in rows if "ddpm" in row] == [True, True]
    assert spacings_table(study, results).count("chosen") == 2
    monkeypatch.setattr(study_samplers, "train_seed", None)
    measure(study)


def test_a_trial_is_not_mistaken_for_the_study() -> None:
    assert TRIAL.file != FULL.file
    assert TRIAL.changes
