"""Measure the samples against fresh true points."""

from collections.abc import Callable
from functools import partial

import torch

from ddpm.datasets import SPIRAL
from ddpm.files import read_json, read_points, reading, sha256, write_array, write_csv, write_json
from ddpm.metrics import Distance, beside_floor, energy_distance, sliced_wasserstein
from ddpm.model_file import load_denoiser
from ddpm.params import load
from ddpm.runtime import stream
from stages.common import FORWARD, METRICS, MODEL, SAMPLES, SAMPLES_CSV, TRAIN, TRUTH, run

# Points of each set in the plot that DVC renders in a browser.
_SHOWN = 1000


def main() -> None:
    """Write the metrics, a true set, and the points behind DVC's plot of both."""
    params = load()
    n, noise, seed = params.sample.n, params.data.noise, params.seed
    # Samples are judged only as those of the present model.
    load_denoiser(MODEL, params, sha256(TRAIN, stage="generate"), torch.device("cpu"))
    samples = torch.from_numpy(read_points(SAMPLES, stage="sample", n=n)).double()
    forward = read_json(FORWARD, stage="diffuse")
    with reading(FORWARD, "diffuse"):
        prior_gap = float(forward["prior_gap"])

    truth = SPIRAL.sample(n, noise, generator=stream(seed, "evaluate/truth"))
    null = stream(seed, "evaluate/null")
    pairs = [
        (SPIRAL.sample(n, noise, generator=null), SPIRAL.sample(n, noise, generator=null))
        for _ in range(params.evaluate.null_pairs)
    ]
    distances: dict[str, Callable[[torch.Tensor, torch.Tensor], Distance]] = {
        "energy_distance": energy_distance,
        "sliced_wasserstein": partial(sliced_wasserstein, directions=params.evaluate.directions),
    }
    estimates = {
        name: beside_floor(distance(samples, truth), [distance(*pair) for pair in pairs])._asdict()
        for name, distance in distances.items()
    }
    rms, ks = {}, {}
    for name, points in (("value", samples), ("truth", truth)):
        u, distance = SPIRAL.project(points)
        rms[name] = float(distance.square().mean().sqrt())
        ks[name] = SPIRAL.uniformity(u)

    write_json(
        METRICS,
        {
            "forward": {"prior_gap": prior_gap},
            "samples": {
                **estimates,
                "curve_rms": rms,
                "curve_ks": ks,
            },
        },
    )
    write_array(TRUTH, truth.float().numpy())
    shown = torch.cat((truth[:_SHOWN], samples[:_SHOWN]))
    write_csv(
        SAMPLES_CSV,
        {
            "x": shown[:, 0].tolist(),
            "y": shown[:, 1].tolist(),
            "set": ["truth"] * len(truth[:_SHOWN]) + ["samples"] * len(samples[:_SHOWN]),
        },
    )


if __name__ == "__main__":
    run(main)
