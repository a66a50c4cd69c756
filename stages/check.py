"""Validate all of params.yaml, so that a mistake stops the run before DVC deletes anything."""

from ddpm.files import write_text
from ddpm.params import choose, load, validate_sections
from ddpm.process import PREDICTIONS
from ddpm.runtime import resolve_device
from ddpm.samplers import SAMPLERS, moments, sampler_of
from ddpm.schedules import SCHEDULES, schedule_of
from stages.common import PARAMS_OK, run

# Of the shipped schedules, cosine and sigmoid end below it, and samples of eps go astray.
_LITTLE_SIGNAL = 1e-3


def main() -> None:
    """Write a constant file, on which all other stages depend, if every parameter is allowed."""
    params = load()
    validate_sections("schedules", params.schedules, SCHEDULES)
    validate_sections("samplers", params.samplers, SAMPLERS)
    schedule = schedule_of(params)
    sampler_of(params)
    choose("prediction", params.prediction, PREDICTIONS)
    a, _ = schedule.levels(schedule.T)
    if params.prediction == "eps" and a < _LITTLE_SIGNAL:
        print(
            "note: with prediction eps, x0_hat at T is the network's error over sqrt(alpha_bar_T) ="
            f" {a:.1g}; schedule {params.schedule} goes well with v or x0"
        )
    moments(params.sample.spacing, schedule.T, params.sample.steps)
    resolve_device(params.device)
    write_text(PARAMS_OK, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
