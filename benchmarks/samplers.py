"""The README's table of samplers, from reports/samplers.csv; or the full grid, outside DVC.

python -m benchmarks.samplers          # `make samplers`: the table of the committed results
python -m benchmarks.samplers --full   # `make compare-full`: every sampler, spacing and budget
"""

import math
import sys
from pathlib import Path

from ddpm.core.errors import UserError
from ddpm.reference.model_under_test import load_model_under_test
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import OPTIMISED, SPACINGS
from ddpm.studies.sampler_cells import Cell, reference_cell, steps_of, valid_cells
from ddpm.studies.sampler_comparison import (
    DENSITY_COLUMNS,
    SampleEvaluator,
    compare,
    tabulate,
)
from stages.common.files import read_spacings
from stages.common.outputs import completing
from stages.common.params import load_params, select
from stages.common.paths import MODEL, SAMPLERS_CSV, SPACINGS_FILE
from stages.common.tables import read_table, write_table

_FULL = Path("reports/samplers_full.csv")
_BUDGETS = (5, 8, 10, 15, 20, 50, 100, 250, 1000)


def table() -> None:
    """Print the committed comparison as Markdown."""
    names = ["sampler", "spacing", "evaluations", "denoiser"]
    header = ["reverse KL", "minus the flow's, cut", "folded", "log density", "strays"]
    print(f"| {' | '.join([*names, *header, 'energy distance'])} |")
    print("|---" * (len(names) + len(header) + 1) + "|")
    rows = read_table(
        SAMPLERS_CSV,
        ("evaluations", "energy_distance", "energy_distance_se", "log_density", "strays"),
        stage="compare_samplers",
        text=("sampler", "spacing", "denoiser"),
        sparse=DENSITY_COLUMNS,
    )
    for _, row in rows.iterrows():
        cell = " | ".join(str(row[name]) for name in names)
        kl = difference = folded = ""
        if not math.isnan(row["reverse_kl"]):
            bound = "≥ " if row["folded"] > 0 else ""
            kl = bound + with_error(row["reverse_kl"], row["reverse_kl_se"])
            difference = with_error(
                *row[["reverse_kl_cut_difference", "reverse_kl_cut_difference_se"]]
            )
            folded = f"{100 * row['folded']:.1f} %"
        energy = f"{row['energy_distance']:.5f} ± {row['energy_distance_se']:.5f}"
        log_density = f"{row['log_density']:.2f} ± {row['log_density_se']:.2f}"
        strays = f"{100 * row['strays']:.2f} %"
        print(f"| {cell} | {kl} | {difference} | {folded} | {log_density} | {strays} | {energy} |")


def with_error(value: float, se: float) -> str:
    """A value and its standard error, to two digits of the error."""
    digits = max(0, 1 - math.floor(math.log10(se))) if se > 0 else 1
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def full() -> None:
    params = load_params()
    settings = params.compare_samplers
    model = load_model_under_test(MODEL)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise_spacings")
    samplers = {name: select(params, "sampler", SAMPLERS, name) for name in SAMPLERS}
    grid = [
        Cell(sampler, spacing, budget)
        for sampler in SAMPLERS
        for spacing in (*SPACINGS, *OPTIMISED)
        for budget in (_BUDGETS if not SAMPLERS[sampler].adaptive else (1,))
    ]
    cells = [
        cell
        for cell in valid_cells(grid, samplers, model.schedule)
        if cell.spacing in SPACINGS
        or str(steps_of(cell, samplers)) in spacings.get(cell.spacing, {})
    ]
    compared = compare(
        model,
        samplers,
        cells,
        spacings,
        SampleEvaluator(model, settings.n, params.measure_samples),
        reference=reference_cell(settings.reference, cells),
        settings=settings,
    )
    with completing():
        write_table(_FULL, tabulate(compared))
    print(f"{len(compared)} rows in {_FULL}")


if __name__ == "__main__":
    try:
        (full if "--full" in sys.argv[1:] else table)()
    except UserError as error:
        sys.exit(f"error: {error}")
