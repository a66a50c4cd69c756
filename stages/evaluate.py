"""Measure the samples against fresh true points, and gather all metrics."""

import math
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm.datasets import SPIRAL
from ddpm.errors import UserError
from ddpm.files import (
    number,
    read_arrays,
    read_json,
    read_points,
    read_trajectories,
    reading,
    write_array,
    write_arrays,
    write_csv,
    write_json,
)
from ddpm.metrics import energy_distance, estimate, sliced_wasserstein
from ddpm.model_file import refuse_other_model
from ddpm.params import load
from ddpm.runtime import stream
from ddpm.subject import load_subject
from stages.common import (
    FORWARD,
    MEASURED,
    METRICS,
    MODEL,
    OPTIMAL,
    SAMPLES,
    SAMPLES_CSV,
    TRAIN,
    TRAJECTORIES,
    TRUTH,
    run,
)

# Points of each set in the plot that DVC renders in a browser.
_SHOWN = 1000


def main() -> None:
    """Write the metrics, a true set, and what the best denoiser says along the trajectories."""
    params = load()
    n, noise, seed = params.sample.n, params.data.noise, params.seed
    # Samples are judged only as those of the present model.
    subject = load_subject(MODEL, params, TRAIN)
    samples = torch.from_numpy(read_points(SAMPLES, stage="sample", n=n)).double()
    t, x, _ = read_trajectories(TRAJECTORIES, stage="sample")
    forward, measured = read_json(FORWARD, stage="diffuse"), read_json(MEASURED, stage="measure")
    _refuse_mixture(samples, torch.from_numpy(x), measured)
    with reading(FORWARD, "diffuse"):
        prior_gap = number(forward["prior_gap"])

    truth = SPIRAL.sample(n, noise, generator=stream(seed, "evaluate/truth"))
    null = stream(seed, "evaluate/null")
    pairs = [
        (SPIRAL.sample(n, noise, generator=null), SPIRAL.sample(n, noise, generator=null))
        for _ in range(params.evaluate.null_pairs)
    ]
    sliced = partial(sliced_wasserstein, directions=params.evaluate.directions)
    metrics: dict[str, object] = {
        name: estimate(distance, {"samples": samples}, truth, pairs)["samples"]
        for name, distance in (("energy_distance", energy_distance), ("sliced_wasserstein", sliced))
    }
    metrics |= _on_the_curve(samples, [one for one, _ in pairs])
    optimal = subject.best_along(t.tolist(), torch.from_numpy(x))

    write_json(METRICS, measured | {"forward": {"prior_gap": prior_gap}, "samples": metrics})
    write_array(TRUTH, truth.float().numpy())
    write_arrays(OPTIMAL, {"x0_best": optimal.numpy()})
    shown = {"truth": truth[:_SHOWN], "samples": samples[:_SHOWN]}
    across, up = torch.cat(list(shown.values())).T.tolist()
    sets = [name for name, points in shown.items() for _ in points]
    write_csv(SAMPLES_CSV, {"x": across, "y": up, "set": sets})


def _refuse_mixture(samples: Tensor, x: Tensor, measured: dict[str, Any]) -> None:
    """Refuse samples, trajectories and measurements that are not all of the present model."""
    made_with = read_arrays(TRAJECTORIES, ("model",), stage="sample")["model"]
    refuse_other_model(str(made_with), MODEL, TRAJECTORIES, stage="sample")
    if not torch.equal(samples[: x.shape[1]], x[-1].double()):
        raise UserError(
            f"{SAMPLES} holds other points than {TRAJECTORIES} ends with; make both again with"
            " `dvc repro sample`"
        )
    refuse_other_model(measured.pop("model", None), MODEL, MEASURED, stage="measure")


def _on_the_curve(samples: Tensor, true_sets: list[Tensor]) -> dict[str, dict[str, float]]:
    """Distance to the curve and uniformity along it, beside what true sets of the same size give.

    `truth` is their mean and `se` their standard deviation.
    """
    sets = tqdm([samples, *true_sets], desc="curve", unit="set", disable=None)
    projected = [SPIRAL.project(points) for points in sets]
    found = {
        "curve_rms": [math.sqrt(float(distance.square().mean())) for _, distance in projected],
        "curve_ks": [SPIRAL.uniformity(u) for u, _ in projected],
    }
    return {
        name: {"value": value, "truth": statistics.mean(true), "se": statistics.stdev(true)}
        for name, (value, *true) in found.items()
    }


if __name__ == "__main__":
    run(main)
