"""Sample the trained model: reverse trajectories from noise to data."""

import numpy as np

from ddpm.errors import UserError
from ddpm.files import write_array, write_arrays
from ddpm.model_file import load_denoiser
from ddpm.params import load
from ddpm.runtime import resolve_device
from ddpm.samplers import Trajectories, draw_samples, moments, sampler_of
from stages.common import MODEL, SAMPLES, TRAIN, TRAJECTORIES, run


def main() -> None:
    """Write the samples, and the moments of a few of them, in data units."""
    params = load()
    device = resolve_device(params.device)
    sampler = sampler_of(params)
    times = moments(params.sample.spacing, params.diffusion.T, params.sample.steps)
    denoiser, scaling = load_denoiser(MODEL, params, TRAIN, device)
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
        trajectories=kept,
    )

    if not bool(samples.isfinite().all()):
        raise UserError(
            f"sampling with prediction {params.prediction} and schedule {params.schedule} gave"
            " values that are not finite; change prediction to v, or schedule, in params.yaml"
        )
    write_array(SAMPLES, scaling.to_data(samples).numpy())
    write_arrays(
        TRAJECTORIES,
        {
            "t": np.array(kept.t),
            "x": scaling.to_data(kept.x).numpy(),
            "x0_hat": scaling.to_data(kept.x0_hat).numpy(),
        },
    )


if __name__ == "__main__":
    run(main)
