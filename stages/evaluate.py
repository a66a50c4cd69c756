"""Measure the samples against fresh true points."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.datasets import SPIRAL
from ddpm.files import read_json, read_points, reading, write_array, write_csv, write_json
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
    load_denoiser(MODEL, params, TRAIN, torch.device("cpu"))
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
    distances: dict[str, Callable[[Tensor, Tensor], Distance]] = {
        "energy_distance": energy_distance,
        "sliced_wasserstein": partial(sliced_wasserstein, directions=params.evaluate.directions),
    }
    metrics: dict[str, object] = {}
    for name, distance in distances.items():
        floor = [distance(*pair) for pair in tqdm(pairs, desc=name, unit="pair", disable=None)]
        metrics[name] = beside_floor(distance(samples, truth), floor)._asdict()
    on_curve = {"value": SPIRAL.project(samples), "truth": SPIRAL.project(truth)}
    metrics["curve_rms"] = {
        which: math.sqrt(float(distance.square().mean()))
        for which, (_, distance) in on_curve.items()
    }
    metrics["curve_ks"] = {which: SPIRAL.uniformity(u) for which, (u, _) in on_curve.items()}

    write_json(METRICS, {"forward": {"prior_gap": prior_gap}, "samples": metrics})
    write_array(TRUTH, truth.float().numpy())
    shown = {"truth": truth[:_SHOWN], "samples": samples[:_SHOWN]}
    x, y = torch.cat(list(shown.values())).T.tolist()
    sets = [name for name, points in shown.items() for _ in points]
    write_csv(SAMPLES_CSV, {"x": x, "y": y, "set": sets})


if __name__ == "__main__":
    run(main)
