"""Sample the trained model: reverse trajectories from noise to data."""

import numpy as np
import torch

from ddpm.errors import UserError
from ddpm.files import read_points, read_spacings, sha256, write_array, write_arrays
from ddpm.model_file import load_denoiser
from ddpm.params import load
from ddpm.reverse import Trajectories, draw_samples
from ddpm.runtime import resolve_device
from ddpm.samplers import sampler_of
from ddpm.spacings import moments
from stages.common import MODEL, SAMPLES, SPACINGS_FILE, TRAIN, TRAJECTORIES, run


def main() -> None:
    """Write the samples, and the moments of a few of them, in data units."""
    params = load()
    device = resolve_device(params.device)
    denoiser, scaling = load_denoiser(MODEL, params, TRAIN, device)
    sampler = sampler_of(params, denoiser.schedule)
    times = moments(
        params.sample.spacing,
        denoiser.schedule,
        params.sample.steps,
        read_spacings(SPACINGS_FILE, stage="optimise"),
    )
    points = torch.from_numpy(read_points(TRAIN, stage="generate", n=params.data.n_train))
    print(f"sampling on {device}")

    kept = Trajectories(times, params.sample.frames, params.sample.trajectories)
    samples = draw_samples(
        sampler,
        denoiser,
        times,
        n=params.sample.n,
        block=params.sample.block,
        seed=params.seed,
        device=device,
        clean=scaling.to_model(points),
        trajectories=kept,
    ).x

    if not bool(samples.isfinite().all()):
        raise UserError(
            f"sampling with prediction {params.prediction} and schedule {params.schedule} gave"
            " values that are not finite; change prediction to v, or schedule, in params.yaml"
        )
    write_array(SAMPLES, scaling.to_data(samples).numpy())
    write_arrays(
        TRAJECTORIES,
        {
            "model": np.array(sha256(MODEL, stage="train")),
            "t": np.array(kept.t),
            "x": scaling.to_data(kept.x).numpy(),
            "x0_hat": scaling.to_data(kept.x0_hat).numpy(),
        },
    )


if __name__ == "__main__":
    run(main)
