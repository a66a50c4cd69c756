"""Attribute the error of the samples to the network or to the sampler."""

from ddpm.reference.model_under_test import load_model_under_test
from ddpm.sampling.spacings import sampling_times
from ddpm.studies.attribution import attribute, sample_combinations
from stages.common.files import read_spacings, write_arrays, write_json
from stages.common.params import load_params
from stages.common.paths import ARMS, ATTRIBUTION, MODEL, SPACINGS_FILE
from stages.common.run import run
from stages.common.sampler import sampler_of
from stages.common.samples import read_samples


def main() -> None:
    """Write samples of each combination of network and sampler, and how far they are from true."""
    params = load_params()
    model = load_model_under_test(MODEL)
    sampler = sampler_of(params, model.schedule)
    spacings = read_spacings(SPACINGS_FILE, stage="optimise_spacings")
    times = sampling_times(params.sample.spacing, model.schedule, params.sample.steps, spacings)

    samples = sample_combinations(
        model,
        sampler,
        times,
        read_samples()[: params.attribute_error.n].double(),
        block=params.sample.block,
        tolerance=params.attribute_error.tolerance,
    )
    attribution = attribute(model, samples, params.measure_samples)
    print(attribution["verdict"])

    write_arrays(ARMS, {name: points.float().numpy() for name, points in samples.items()})
    write_json(ATTRIBUTION, attribution)


if __name__ == "__main__":
    run(main)
