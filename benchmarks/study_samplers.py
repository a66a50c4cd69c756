"""Samplers, spacings and numbers of evaluations in nats, over ten seeds.

python -m benchmarks.study_samplers           # `make samplers-full`: measure what is missing
python -m benchmarks.study_samplers --table   # print the tables of docs/samplers.md
python -m benchmarks.study_samplers --trial   # two small seeds into checkpoints/, in a minute

A seed has data, a model, optimised times, noise and true sets of its own. Everything comes from
what the stages call, at more points and without limits on the evaluations. Seeds that are in
benchmarks/study_samplers.json are not measured again.
"""

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.published_spacings import published_spacings
from benchmarks.resumable import Results, run_study, train_seed, training_settings
from benchmarks.samplers import ESTIMATES, KEY, Row, markdown, percent, with_error
from ddpm.core.params import CompareSamplersSettings, Params
from ddpm.reference.estimates import Mean
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import OPTIMISED
from ddpm.studies.optimised_spacings import optimised_spacings
from ddpm.studies.sampler_cells import Cell, valid_cells
from ddpm.studies.sampler_comparison import SampleEvaluator, compare
from stages.common.params import load_params, select
from stages.common.paths import CHECKPOINTS
from stages.common.sampler import sampler_of

_FILE = Path("benchmarks/study_samplers.json")
_FEW = (5, 6, 8, 10, 15, 20)
_PUBLISHED = ("align_your_steps", "gits")
_SPACINGS = ("log_snr", "karras", "trailing", "tangent", *_PUBLISHED, *OPTIMISED)
# The sampler for which the pipeline optimises spacings.
_COMPARED = "unipc"
_CELLS: dict[str, Sequence[int]] = {
    **{f"{_COMPARED}/{spacing}": _FEW for spacing in _SPACINGS},
    "ddim/trailing": (5, 10, 20, 50, 250, 1000),
    "ddim/log_snr": (5, 10, 20, 50),
    "heun/karras": (10, 20, 50, 250, 1000),
    "dpmpp_2m/log_snr": (*_FEW, 50, 250, 1000),
    "dpmpp_3m/log_snr": (10, 20, 50),
    "ddpm/trailing": (100, 1000),
    "dpmpp_2m_sde/log_snr": (10, 20, 50),
    "ode/trailing": (1,),
}
# Sections of params.yaml that determine the measurement, with those that determine a network.
_MEASURED = {"optimise_spacings", "samplers", "measure_samples"}
_ABOVE_FLOW = "reverse_kl_cut_difference"
# The columns that are kept.
_KEPT = (
    *("reverse_kl", "reverse_kl_cut", _ABOVE_FLOW, "folded", "mass"),
    *("energy_distance", "log_density", "log_density_truth", "strays"),
)


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        seeds: Seeds; the best spacing is chosen on the first half and scored on the second.
        cells: Numbers of evaluations by "sampler/spacing".
        changes: Changes of dotted parameters.
        points: Samples of each cell, and points at which the density of the output is computed.
        file: The results.
    """

    seeds: Sequence[int]
    cells: Mapping[str, Sequence[int]]
    changes: Mapping[str, Any]
    points: int
    file: Path


# Ten seeds of 3277 points are 32,770 points of the exact denoiser, which no seed changes much.
FULL = Study(range(10), _CELLS, {}, 3277, _FILE)
TRIAL = Study(
    range(2),
    {"unipc/log_snr": (5,), "unipc/optimised_truth": (5,), "ddpm/trailing": (20,)}
    | {"ode/trailing": (1,)},
    {"data.n_train": 1000, "train.steps": 200, "optimise_spacings.n": 50},
    50,
    CHECKPOINTS / _FILE.name,
)


def measure(study: Study) -> None:
    """Measure the seeds that are not in the file of results."""
    measured = load_params().model_dump(mode="json", include=_MEASURED)
    settings = {**training_settings(load_params(), set()), **measured} | {
        "cells": {name: list(budgets) for name, budgets in study.cells.items()},
        "changes": study.changes,
        "points": study.points,
    }
    results = Results.resume(study.file, settings)
    seeds = [seed for seed in study.seeds if str(seed) not in results.cells]
    for seed in tqdm(seeds, desc="samplers", unit="seed", disable=None):
        values = changed(present_params(), **study.changes, seed=seed, device="cpu")
        results.add(str(seed), {"rows": measure_seed(study, Params.model_validate(values))})


def measure_seed(study: Study, params: Params) -> list[dict[str, Any]]:
    """Train a model and compare all cells with it; a row for each cell and denoiser."""
    with tempfile.TemporaryDirectory() as folder:
        model = train_seed(params, Path(folder))
    listed = [
        Cell(*name.split("/"), evaluations)
        for name, budgets in study.cells.items()
        for evaluations in budgets
    ]
    few = sorted({cell.evaluations for cell in listed if cell.spacing in (*OPTIMISED, *_PUBLISHED)})
    search = params.optimise_spacings
    times = optimised_spacings(
        model,
        sampler_of(params, model.schedule, search.sampler),
        few,
        n=search.n,
        tolerance=search.tolerance,
        iterations=search.iterations,
    ) | published_spacings(model, few, n=search.n)
    samplers = {cell.sampler: select(params, "sampler", SAMPLERS, cell.sampler) for cell in listed}
    cells = valid_cells(listed, samplers, model.schedule)
    limit = max(itertools.chain(*study.cells.values()))
    settings = CompareSamplersSettings(
        n=study.points,
        exact_up_to=limit,
        n_density=study.points,
        density_up_to=limit,
        reference="ode/trailing",
        cells={},
    )
    compared = compare(
        model,
        samplers,
        cells,
        times,
        SampleEvaluator(model, study.points, params.measure_samples),
        settings,
    )
    return [
        # The number that was asked for, which is the same with every seed.
        {name: row[name] for name in KEY}
        | {"evaluations": result.cell.evaluations}
        | {name: row[name] for name in _KEPT if not math.isnan(row[name])}
        for result in compared
        for row in [result.row()]
    ]


def table(study: Study, results: Results) -> str:
    """All cells with their means over the seeds, as Markdown."""
    groups = _rows(study, results).groupby(list(KEY), sort=False)
    return markdown(
        Row(
            key,
            {name: over_seeds(group[name]) for name in ESTIMATES},
            group["folded"].mean(skipna=False),
            group["strays"].mean(),
        )
        for key, group in groups
    )


def spacings_table(study: Study, results: Results) -> str:
    """The spacings of one sampler, in nats above the converged flow, as Markdown.

    For each number of evaluations, the best mean on the first half of the seeds is chosen, among
    the spacings with which nothing folds there, or among all if there is none: where a map folds,
    the values are lower bounds.
    """
    rows = _rows(study, results)
    rows = rows[rows["sampler"].eq(_COMPARED) & rows["evaluations"].isin(_FEW)]
    half = len(study.seeds) // 2
    rows = rows.assign(first=rows["seed"].isin(study.seeds[:half]))
    parts = [f"seeds {part[0]} to {part[-1]}" for part in (study.seeds[:half], study.seeds[half:])]
    lines = [
        f"| evaluations | denoiser | spacing | {' | '.join(parts)} | folded | |",
        "|---|---|---|---|---|---|---|",
    ]
    for (evaluations, denoiser), group in rows.groupby(["evaluations", "denoiser"], sort=False):
        means = group[group["first"]].groupby("spacing")[[_ABOVE_FLOW, "folded"]].mean()
        whole = means[means["folded"].eq(0)]
        chosen = (means if whole.empty else whole)[_ABOVE_FLOW].idxmin()
        for spacing, cell in group.groupby("spacing", sort=False):
            folded = cell["folded"].mean()
            bound = "≥ " if folded > 0 else ""
            halves = (
                bound + with_error(*over_seeds(cell.loc[part, _ABOVE_FLOW]))
                for part in (cell["first"], ~cell["first"])
            )
            values = (evaluations, denoiser, spacing, *halves, percent(folded))
            mark = "chosen" if spacing == chosen else ""
            lines.append(f"| {' | '.join(map(str, values))} | {mark} |")
    return "\n".join(lines)


def over_seeds(values: "pd.Series[float]") -> Mean:
    """Mean over seeds with its standard error."""
    return Mean(float(values.mean()), float(values.sem()))


def present(study: Study) -> None:
    """Print both tables."""
    results = Results.read(study.file)
    print(spacings_table(study, results))
    print()
    print(table(study, results))


def _rows(study: Study, results: Results) -> pd.DataFrame:
    rows = [
        dict.fromkeys(_KEPT, math.nan) | {"seed": seed, **row}
        for seed in study.seeds
        if str(seed) in results.cells
        for row in results.cells[str(seed)]["rows"]
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
