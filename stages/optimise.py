"""Optimise the times of a sampler with few steps, on the exact truth and on the model alone."""

from ddpm.files import write_json
from ddpm.optimise import optimised_spacings
from ddpm.params import load
from ddpm.samplers import sampler_of
from ddpm.spacings import has_signal_at_end
from ddpm.subject import load_subject
from stages.common import MODEL, SPACINGS_FILE, TRAIN, run


def main() -> None:
    """Write the times of both spacings for each number of steps."""
    params = load()
    wanted = params.optimise
    subject = load_subject(MODEL, params, TRAIN)
    schedule = subject.denoiser.schedule
    found = {}
    if has_signal_at_end(schedule):
        found = optimised_spacings(
            subject,
            sampler_of(params, schedule, wanted.sampler),
            [steps for steps in wanted.steps if steps <= schedule.T],
            n=wanted.n,
            tolerance=wanted.tolerance,
        )
    write_json(SPACINGS_FILE, found)


if __name__ == "__main__":
    run(main)
