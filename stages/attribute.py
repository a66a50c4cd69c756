"""Find where the error of the samples comes from: the network or the sampler."""

from ddpm.attribution import arms, attribute
from ddpm.files import read_spacings, write_arrays, write_json
from ddpm.params import load
from ddpm.samplers import sampler_of
from ddpm.spacings import moments
from ddpm.subject import load_subject
from stages.common import ARMS, ATTRIBUTION, MODEL, SPACINGS_FILE, TRAIN, run


def main() -> None:
    """Write the samples of each arm, and how far each is from the truth."""
    params = load()
    subject = load_subject(MODEL, params, TRAIN)
    schedule = subject.denoiser.schedule
    sampler = sampler_of(params, schedule)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise")
    times = moments(params.sample.spacing, schedule, params.sample.steps, spacings)

    found = arms(
        subject,
        sampler,
        times,
        n=params.attribute.n,
        block=params.sample.block,
        tolerance=params.attribute.tolerance,
    )
    attribution = attribute(subject, found, null_pairs=params.evaluate.null_pairs)
    print(attribution["verdict"])

    write_arrays(ARMS, {name: points.float().numpy() for name, points in found.items()})
    write_json(ATTRIBUTION, attribution)


if __name__ == "__main__":
    run(main)
