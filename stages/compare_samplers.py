"""Compare samplers at equal cost, on the network and on the exact denoiser."""

from ddpm.reference.model_under_test import load_model_under_test
from ddpm.sampling.registry import SAMPLERS
from ddpm.studies.sampler_cells import parse_cells, valid_cells
from ddpm.studies.sampler_comparison import SampleEvaluator, compare, tabulate
from stages.common.files import read_spacings, write_arrays
from stages.common.params import load_params, select
from stages.common.paths import COMPARED, MODEL, SAMPLERS_CSV, SPACINGS_FILE
from stages.common.run import run
from stages.common.tables import write_table

# Samples of each cell that the figure shows.
_SHOWN = 1500


def main() -> None:
    """Write a row for each cell and denoiser, and some of its samples."""
    params = load_params()
    settings = params.compare_samplers
    listed = parse_cells(settings.cells)
    samplers = {cell.sampler: select(params, "sampler", SAMPLERS, cell.sampler) for cell in listed}
    model = load_model_under_test(MODEL)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise_spacings")
    cells = valid_cells(listed, samplers, model.schedule)
    if len(cells) < len(listed):
        print(
            f"skipped {len(listed) - len(cells)} of {len(listed)} cells: duplicates, or invalid for"
            " this schedule"
        )
    compared = compare(
        model,
        samplers,
        cells,
        spacings,
        SampleEvaluator(model, settings.n, params.measure_samples),
        settings,
    )

    write_table(SAMPLERS_CSV, tabulate(compared))
    points = {
        f"{result.cell.name}/{result.evaluations}/{result.denoiser}": (
            result.points[:_SHOWN].float().numpy()
        )
        for result in compared
    }
    write_arrays(COMPARED, points)


if __name__ == "__main__":
    run(main)
