"""Draw what the other stages measured; nothing is computed here.

To add a figure, write a function in `ddpm.plots`, read its inputs and call it here, and list the
new file under this stage in dvc.yaml.
"""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddpm.plots import fields, samplers, samples, training
from ddpm.plots.style import save
from stages.common.files import read_arrays, read_json, read_points, reading
from stages.common.outputs import pending
from stages.common.paths import (
    ATTRIBUTION,
    COMPARED,
    DENOISING_CSV,
    FIELDS,
    MEMORY_CSV,
    METRICS,
    OPTIMAL,
    REPORTS,
    SAMPLERS_CSV,
    SAMPLES,
    TRAINING_CSV,
    TRAJECTORIES,
    TRUTH,
)
from stages.common.run import run
from stages.common.tables import read_table

# Fractions of T at which the reverse process is shown; most of the picture appears late.
_TIMES = (1, 0.6, 0.3, 0.15, 0.05, 0)
# Columns in the figure of few steps, the most evaluations that count as few, and the rows: these,
# or all if none of them was compared.
_COLUMNS, _FEW = 3, 20
_ROWS = ("ddim/trailing", "unipc/log_snr", "unipc/optimised_model")
# Points in the animation that is in git.
_SMALL = 600
_SCORE = tuple(f"score_{name}" for name in ("t", "sigma", "at", "truth", "model", "log_density"))
_DENSITY = ("density_truth", "density_model", "density_reach")


def main() -> None:
    """Write all figures of the model, and the animation of the reverse process."""
    t, x, x0_hat = read_arrays(TRAJECTORIES, ("t", "x", "x0_hat"), stage="sample").values()
    figures = _sample_figures() | _model_figures() | _sampler_figures()
    optimal = read_arrays(OPTIMAL, ["x0_best"], stage="measure_samples")["x0_best"]
    shown = [int(np.abs(t - part * t[0]).argmin()) for part in _TIMES]
    labels = [f"t = {t[k]:g}" for k in shown]
    figures["reverse"] = samples.reverse_process(x[shown], x0_hat[shown], optimal[shown], labels)
    truth = read_points(TRUTH, stage="measure_samples")
    figures["trajectories"] = samples.trajectories(x, x0_hat, optimal, truth)

    for name, figure in figures.items():
        with pending(REPORTS / f"{name}.png") as path:
            save(figure, path)
    labels = [f"t = {time:4g}" for time in t]
    with pending(REPORTS / "reverse.gif") as path:
        samples.reverse_animation(x, x0_hat, optimal, labels, path)
    # Every other frame, counted from the last, with fewer points: small enough for git.
    every = np.arange(len(t) - 1, -1, -2)[::-1]
    x, x0_hat, optimal = (frames[every, :_SMALL] for frames in (x, x0_hat, optimal))
    with pending(REPORTS / "spiral.gif") as path:
        labels = [labels[k] for k in every]
        samples.reverse_animation(x, x0_hat, optimal, labels, path, width=7)


def _sample_figures() -> dict[str, Figure]:
    metrics = read_json(METRICS, stage="measure_samples")
    truth = read_points(TRUTH, stage="measure_samples")
    points = read_points(SAMPLES, stage="sample")[: len(truth)]
    with reading(METRICS, "measure_samples"):
        caption = _sample_caption(metrics)
    names = ("distance_truth", "distance_samples")
    true_distances, distances = read_arrays(OPTIMAL, names, stage="measure_samples").values()
    figure = samples.samples_beside_truth(truth, points, true_distances, distances, caption)
    return {"samples": figure}


def _model_figures() -> dict[str, Figure]:
    curve = read_table(TRAINING_CSV, ("step", "loss", "val_loss", "lr", "grad_norm"), stage="train")
    errors = read_table(
        DENOISING_CSV, ("t", "loss", "optimal", "excess", "excess_nats"), stage="measure_model"
    )
    memory = read_table(
        MEMORY_CSV,
        ("t", "to_truth", "to_sample", "truth_to_sample", "share", "share_se"),
        stage="measure_model",
    )
    metrics = read_json(METRICS, stage="measure_samples")
    arrays = read_arrays(FIELDS, (*_SCORE, *_DENSITY), stage="measure_model")
    with reading(METRICS, "measure_samples"):
        caption = _density_caption(metrics)
        least = float(metrics["validation"]["optimal"]["value"])
    return {
        "training": training.training_curve(curve, least),
        "denoising": training.denoising_error(errors, memory),
        "score": fields.score_fields(*(arrays[name] for name in _SCORE)),
        "density": fields.densities(caption, *(arrays[name] for name in _DENSITY)),
    }


def _sampler_figures() -> dict[str, Figure]:
    table = read_table(
        SAMPLERS_CSV,
        ("evaluations", "strays"),
        stage="compare_samplers",
        text=("sampler", "spacing", "denoiser"),
        sparse=("reverse_kl", "reverse_kl_se", "folded"),
    )
    names = ["sampler", "spacing", "evaluations", "denoiser"]
    table.index = ["/".join(map(str, row)) for row in table[names].itertuples(index=False)]
    keys = list(table.index)
    points = read_arrays(COMPARED, keys, stage="compare_samplers")
    truth, reach = read_arrays(
        FIELDS, ("density_truth", "density_reach"), stage="measure_model"
    ).values()
    nats = {
        key: "" if math.isnan(kl) else f"{'≥ ' if folded > 0 else ''}{kl:.2g} nats"
        for key, kl, folded in zip(keys, table["reverse_kl"], table["folded"], strict=True)
    }
    few = samplers.few_steps(points, _few_evaluations(keys), nats, truth, float(reach))
    attribution = read_json(ATTRIBUTION, stage="attribute_error")
    return {
        "samplers": samplers.samplers(table),
        "few_steps": few,
        "attribution": samplers.attribution(attribution),
    }


def _few_evaluations(keys: list[str]) -> list[list[str]]:
    """Keys of the network's samples with fewest evaluations, one row per sampler and spacing."""
    lines: dict[str, list[str]] = {}
    for key in keys:
        sampler, spacing, _, denoiser = key.split("/")
        if denoiser == "network":
            lines.setdefault(f"{sampler}/{spacing}", []).append(key)
    few = {
        name: line[:_COLUMNS]
        for name, line in lines.items()
        if len(line) >= _COLUMNS and int(line[_COLUMNS - 1].split("/")[2]) <= _FEW
    }
    return [few[name] for name in _ROWS if name in few] or list(few.values()) or [[keys[0]]]


def _sample_caption(metrics: dict[str, Any]) -> str:
    energy, rms = metrics["samples"]["energy_distance"], metrics["samples"]["curve_rms"]
    return (
        f"energy distance {energy['value']:.5f} ± {energy['se']:.5f} (true sets:"
        f" {energy['floor']:.5f});  RMS distance to the curve {rms['value']:.4f}"
        f" (true points: {rms['truth']:.4f})"
    )


def _density_caption(metrics: dict[str, Any]) -> str:
    kl, t = metrics["likelihood"]["kl"], metrics["likelihood"]["t"]
    return f"KL(truth || model) = {kl['value']:.3g} ± {kl['se']:.1g} nats at t = {t}"


if __name__ == "__main__":
    run(main)
