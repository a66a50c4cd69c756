"""Optimise the times of a sampler with few steps, for the exact denoiser and for the network."""

from ddpm.reference.model_under_test import load_model_under_test
from ddpm.studies.optimised_spacings import optimised_spacings
from stages.common.files import write_json
from stages.common.params import load_params
from stages.common.paths import MODEL, SPACINGS_FILE
from stages.common.run import run
from stages.common.sampler import sampler_of


def main() -> None:
    """Write the times of both spacings for each number of steps."""
    params = load_params()
    settings = params.optimise_spacings
    model = load_model_under_test(MODEL)
    spacings = {}
    if model.schedule.has_terminal_signal:
        spacings = optimised_spacings(
            model,
            sampler_of(params, model.schedule, settings.sampler),
            [steps for steps in settings.steps if steps <= model.schedule.T],
            n=settings.n,
            tolerance=settings.tolerance,
            iterations=settings.iterations,
        )
    write_json(SPACINGS_FILE, spacings)


if __name__ == "__main__":
    run(main)
