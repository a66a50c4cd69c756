"""Validate all of params.yaml, so that a mistake stops the run before DVC deletes anything."""

from ddpm.comparison import cells_of, cells_to_run, steps_of
from ddpm.errors import UserError
from ddpm.files import write_text
from ddpm.params import Params, choose, load, validate_sections
from ddpm.process import PREDICTIONS
from ddpm.runtime import resolve_device
from ddpm.samplers import SAMPLERS, sampler_named, sampler_of
from ddpm.schedules import SCHEDULES, Schedule, schedule_of
from ddpm.spacings import OPTIMISED, moments, refuse_no_signal
from stages.common import PARAMS_OK, run

# Of the shipped schedules, cosine and sigmoid end below it, and samples of eps go astray.
_LITTLE_SIGNAL = 1e-3


def main() -> None:
    """Write a constant file, on which all other stages depend, if every parameter is allowed."""
    params = load()
    validate_sections("schedules", params.schedules, SCHEDULES)
    validate_sections("samplers", params.samplers, SAMPLERS)
    choose("prediction", params.prediction, PREDICTIONS)
    schedule = schedule_of(params)
    sampler_of(params, schedule)
    _check_spacings(params, schedule)
    resolve_device(params.device)
    a, _ = schedule.levels(schedule.T)
    if params.prediction == "eps" and a < _LITTLE_SIGNAL:
        print(
            "note: with prediction eps, x0_hat at T is the network's error over sqrt(alpha_bar_T) ="
            f" {a:.1g}; schedule {params.schedule} goes well with v or x0"
        )
    write_text(PARAMS_OK, "params.yaml is valid\n")


def _check_spacings(params: Params, schedule: Schedule) -> None:
    name = params.optimise.sampler
    sampler = sampler_named(name, params, "optimise.sampler")
    if not sampler.deterministic or sampler.adaptive:
        raise UserError(
            f"optimise.sampler is {name} but its arrivals are random, or its steps its own; change"
            " it in params.yaml to one that is deterministic, such as unipc"
        )
    if params.sample.spacing in OPTIMISED:
        refuse_no_signal(schedule, f"sample.spacing {params.sample.spacing}")
    # Any times stand in for those that stage `optimise` will find.
    counts = [count for count in params.optimise.steps if count <= schedule.T]
    coming = {spacing: {str(count): [1.0] * count for count in counts} for spacing in OPTIMISED}
    moments(params.sample.spacing, schedule, params.sample.steps, coming)
    cells = cells_of(params.compare.cells)
    if not cells_to_run(cells, params, schedule):
        raise UserError(
            "compare.cells has none that can be run on this schedule; add one in params.yaml, such"
            " as ddim/trailing: 1"
        )
    for cell in cells:
        steps = steps_of(cell, params)
        if cell.spacing in OPTIMISED and steps not in params.optimise.steps:
            raise UserError(
                f"compare.cells.{cell.sampler}/{cell.spacing} has {cell.evaluations} evaluations,"
                f" {steps} steps, but optimise.steps is"
                f" {' '.join(map(str, params.optimise.steps))}; add {steps} there in params.yaml"
            )


if __name__ == "__main__":
    run(main)
