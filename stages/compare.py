"""Compare samplers at equal cost, on the network and on the exact denoiser."""

from ddpm.comparison import COLUMNS, Judge, cells_of, cells_to_run, compare
from ddpm.files import read_spacings, write_arrays, write_csv
from ddpm.params import load
from ddpm.subject import load_subject
from stages.common import COMPARED, MODEL, SAMPLERS_CSV, SPACINGS_FILE, TRAIN, run

# Of each cell: what a picture shows.
_SHOWN = 1500


def main() -> None:
    """Write a row for each cell and denoiser, and some of its samples."""
    params = load()
    listed = cells_of(params.compare.cells)
    subject = load_subject(MODEL, params, TRAIN)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise")
    cells = cells_to_run(listed, params, subject.denoiser.schedule)
    if len(cells) < len(listed):
        print(
            f"{len(listed) - len(cells)} of {len(listed)} cells are doubled or have no meaning here"
        )
    judge = Judge(
        subject,
        params.compare.n,
        null_pairs=params.evaluate.null_pairs,
        directions=params.evaluate.directions,
    )
    compared = compare(subject, params, cells, spacings, judge)

    rows = [one.row() for one in compared]
    write_csv(SAMPLERS_CSV, {name: [row[name] for row in rows] for name in COLUMNS})
    points = {
        f"{one.cell.sampler}/{one.cell.spacing}/{one.evaluations}/{one.denoiser}": (
            one.points[:_SHOWN].float().numpy()
        )
        for one in compared
    }
    write_arrays(COMPARED, points)


if __name__ == "__main__":
    run(main)
