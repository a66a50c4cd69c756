"""The README's table of samplers, from reports/samplers.csv; or the full grid, outside DVC.

python -m benchmarks.samplers          # `make samplers`: the table of the committed results
python -m benchmarks.samplers --full   # `make compare-full`: every sampler, spacing and budget
"""

import sys
from pathlib import Path

from ddpm.comparison import COLUMNS, Cell, Judge, cells_to_run, compare
from ddpm.errors import UserError
from ddpm.files import read_rows, read_spacings, write_csv
from ddpm.params import load
from ddpm.samplers import SAMPLERS
from ddpm.spacings import OPTIMISED, SPACINGS
from ddpm.subject import load_subject
from stages.common import MODEL, SAMPLERS_CSV, SPACINGS_FILE, TRAIN

_FULL = Path("reports/samplers_full.csv")
_BUDGETS = (5, 8, 10, 15, 20, 50, 100, 250, 1000)


def table() -> None:
    print("| sampler | spacing | evaluations | denoiser | energy distance |")
    print("|---|---|---|---|---|")
    for row in read_rows(SAMPLERS_CSV, stage="compare"):
        cell = " | ".join(row[name] for name in ("sampler", "spacing", "evaluations", "denoiser"))
        value, se = float(row["energy_distance"]), float(row["energy_distance_se"])
        print(f"| {cell} | {value:.5f} ± {se:.5f} |")


def full() -> None:
    params = load()
    subject = load_subject(MODEL, params, TRAIN)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise")
    grid = [
        Cell(sampler, spacing, budget)
        for sampler in SAMPLERS
        for spacing in (*SPACINGS, *OPTIMISED)
        for budget in (_BUDGETS if sampler != "ode" else (1,))
    ]
    cells = [
        cell
        for cell in cells_to_run(grid, params, subject.denoiser.schedule)
        if (cell.spacing in SPACINGS or str(cell.evaluations) in spacings.get(cell.spacing, {}))
        and not (cell.sampler == "heun" and cell.spacing in OPTIMISED)
    ]
    sizes = params.evaluate
    judge = Judge(
        subject, params.compare.n, null_pairs=sizes.null_pairs, directions=sizes.directions
    )
    rows = [one.row() for one in compare(subject, params, cells, spacings, judge)]
    write_csv(_FULL, {name: [row[name] for row in rows] for name in COLUMNS})
    print(f"{len(rows)} rows in {_FULL}")


if __name__ == "__main__":
    try:
        (full if "--full" in sys.argv[1:] else table)()
    except UserError as error:
        sys.exit(f"error: {error}")
