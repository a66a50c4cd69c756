"""Validate all of params.yaml, so that a mistake stops the run before DVC deletes anything."""

from ddpm.core.errors import UserError
from ddpm.core.params import Params
from ddpm.core.settings import choose, validate_sections
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import OPTIMISED, require_terminal_signal, sampling_times
from ddpm.studies.sampler_cells import parse_cells, reference_cell, steps_of, valid_cells
from stages.common.check_training import check_training
from stages.common.dataset import known_dataset
from stages.common.files import write_text
from stages.common.params import load_params, select
from stages.common.paths import PARAMS_OK
from stages.common.run import run
from stages.common.sampler import sampler_of


def main() -> None:
    """Write a constant file, on which all other stages depend, if every parameter is allowed."""
    params = load_params()
    if params.train.drop_label is not None:
        raise UserError(
            f"train.drop_label is {params.train.drop_label:g} but this pipeline has no labels;"
            " remove it from params.yaml, or use that in pipelines/guidance"
        )
    known_dataset(params)
    schedule = check_training(params)
    validate_sections("samplers", params.samplers, SAMPLERS)
    sampler_of(params, schedule)
    _check_spacings(params, schedule)
    write_text(PARAMS_OK, "params.yaml is valid\n")


def _check_spacings(params: Params, schedule: Schedule) -> None:
    optimise = params.optimise_spacings
    choose("optimise_spacings.sampler", optimise.sampler, SAMPLERS)
    sampler = select(params, "sampler", SAMPLERS, optimise.sampler)
    if not sampler.deterministic or sampler.adaptive:
        raise UserError(
            f"optimise_spacings.sampler is {optimise.sampler}, which is random or chooses its own"
            " steps; change it in params.yaml to a deterministic one, such as unipc"
        )
    if params.sample.spacing in OPTIMISED:
        require_terminal_signal(schedule, f"sample.spacing {params.sample.spacing}")
    # Placeholders for the times that stage `optimise_spacings` computes.
    counts = [count for count in optimise.steps if count <= schedule.T]
    placeholders = {
        spacing: {str(count): [1.0] * count for count in counts} for spacing in OPTIMISED
    }
    sampling_times(params.sample.spacing, schedule, params.sample.steps, placeholders)
    cells = parse_cells(params.compare_samplers.cells)
    samplers = {cell.sampler: select(params, "sampler", SAMPLERS, cell.sampler) for cell in cells}
    runnable = valid_cells(cells, samplers, schedule)
    if not runnable:
        raise UserError(
            "compare_samplers.cells has none that can run on this schedule; add one in params.yaml,"
            " such as ddim/trailing: 1"
        )
    for cell in cells:
        steps = steps_of(cell, samplers)
        if cell.spacing in OPTIMISED and steps not in optimise.steps:
            raise UserError(
                f"compare_samplers.cells.{cell.sampler}/{cell.spacing} has {cell.evaluations}"
                f" evaluations, {steps} steps, but optimise_spacings.steps is"
                f" {' '.join(map(str, optimise.steps))}; add {steps} there in params.yaml"
            )
    reference_cell(params.compare_samplers.reference, runnable)


if __name__ == "__main__":
    run(main)
