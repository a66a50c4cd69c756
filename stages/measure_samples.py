"""Measure the samples against fresh true points, and gather all metrics."""

from functools import partial

import torch

from ddpm.core.compute import stream
from ddpm.networks.model_file import load_model
from ddpm.reference.curve_metrics import measure_on_curve, project
from ddpm.reference.distances import DISTANCES
from ddpm.reference.estimates import estimate_distances
from ddpm.reference.model_under_test import ModelUnderTest
from stages.common.files import (
    read_arrays,
    read_json,
    reading,
    refuse_other_model,
    write_array,
    write_arrays,
    write_json,
)
from stages.common.params import load_params
from stages.common.paths import (
    FORWARD,
    MEASURED,
    METRICS,
    MODEL,
    OPTIMAL,
    SAMPLES_CSV,
    TRAJECTORIES,
    TRUTH,
)
from stages.common.run import run
from stages.common.samples import read_samples
from stages.common.tables import write_table

# Points of each set in the plot that DVC renders in a browser.
_SHOWN = 1000


def main() -> None:
    """Write the metrics, a true set, distances to the curve, and exact predictions of x_0."""
    settings = load_params().measure_samples
    trained = load_model(MODEL)
    model = ModelUnderTest.from_model(trained)
    sampled = read_samples()
    t, x, device = read_arrays(TRAJECTORIES, ("t", "x", "device"), stage="sample").values()
    forward = read_json(FORWARD, stage="diffuse")
    measured = read_json(MEASURED, stage="measure_model")
    refuse_other_model(measured.pop("model", None), MODEL, MEASURED, stage="measure_model")
    samples = sampled[: settings.n].double()
    with reading(FORWARD, "diffuse"):
        prior_gap = float(forward["prior_gap"])

    n, dataset = len(samples), model.dataset
    # The streams keep the stage's earlier name, and with it their numbers.
    truth = dataset.sample(n, generator=stream(model.seed, "evaluate/truth"))
    null = stream(model.seed, "evaluate/null")
    pairs = [
        (dataset.sample(n, generator=null), dataset.sample(n, generator=null))
        for _ in range(settings.null_pairs)
    ]
    metrics: dict[str, object] = {}
    for name, distance in DISTANCES.items():
        distance_to = partial(distance, settings=settings)
        estimates = estimate_distances(distance_to, {"samples": samples}, truth, pairs)
        metrics[name] = estimates["samples"]
    on_curve = project(dataset, [samples, truth, *(first for first, _ in pairs)])
    metrics |= measure_on_curve(on_curve[0], on_curve[2:])
    optimal = model.exact_x0_hat(t.tolist(), torch.from_numpy(x))

    write_json(
        METRICS,
        measured
        | {
            # Only results that were computed on a CPU can be repeated bit for bit.
            "device": {"train": trained.description.device, "sample": str(device)},
            "forward": {"prior_gap": prior_gap},
            "samples": metrics,
        },
    )
    write_array(TRUTH, truth.float().numpy())
    distances = {
        "distance_samples": on_curve[0].distance.float().numpy(),
        "distance_truth": on_curve[1].distance.float().numpy(),
    }
    write_arrays(OPTIMAL, {"x0_best": optimal.numpy()} | distances)
    shown = {"truth": truth[:_SHOWN], "samples": samples[:_SHOWN]}
    x_values, y_values = torch.cat(list(shown.values())).T.tolist()
    sets = [name for name, points in shown.items() for _ in points]
    write_table(SAMPLES_CSV, {"x": x_values, "y": y_values, "set": sets})


if __name__ == "__main__":
    run(main)
