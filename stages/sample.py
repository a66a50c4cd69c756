"""Sample the trained model: reverse trajectories from noise to data."""

import numpy as np
import torch

from ddpm.core.compute import device_name
from ddpm.core.errors import UserError
from ddpm.core.files import sha256
from ddpm.networks.model_file import load_model
from ddpm.sampling.loop import Trajectories, draw_samples
from ddpm.sampling.spacings import sampling_times
from stages.common.device import device_of
from stages.common.files import read_points, read_spacings, write_array, write_arrays
from stages.common.params import load_params
from stages.common.paths import MODEL, SAMPLES, SPACINGS_FILE, TRAIN, TRAJECTORIES
from stages.common.run import run
from stages.common.sampler import sampler_of


def main() -> None:
    """Write the samples, and the trajectories of a few of them, in data units."""
    params = load_params()
    device = device_of(params)
    model = load_model(MODEL, device)
    schedule = model.denoiser.schedule
    sampler = sampler_of(params, schedule)
    times = sampling_times(
        params.sample.spacing,
        schedule,
        params.sample.steps,
        read_spacings(SPACINGS_FILE, stage="optimise_spacings"),
    )
    points = torch.from_numpy(read_points(TRAIN, stage="generate"))
    print(f"sampling on {device}")

    trajectories = Trajectories(times, params.sample.frames, params.sample.trajectories)
    samples = draw_samples(
        sampler,
        model.denoiser,
        times,
        n=params.sample.n,
        block=params.sample.block,
        seed=model.seed,
        device=device,
        clean=model.scaling.to_model(points),
        trajectories=trajectories,
    ).x

    if not bool(samples.isfinite().all()):
        description = model.description
        raise UserError(
            f"sampling with prediction {description.prediction} and schedule"
            f" {description.schedule.name} gave values that are not finite; change prediction to v,"
            " or schedule, in params.yaml"
        )
    write_array(SAMPLES, model.scaling.to_data(samples).numpy())
    write_arrays(
        TRAJECTORIES,
        {
            "device": np.array(device_name(device)),
            "model": np.array(sha256(MODEL)),
            "t": np.array(trajectories.t),
            "x": model.scaling.to_data(trajectories.x).numpy(),
            "x0_hat": model.scaling.to_data(trajectories.x0_hat).numpy(),
        },
    )


if __name__ == "__main__":
    run(main)
