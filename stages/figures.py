"""Draw what the other stages measured; nothing is computed here."""

from typing import Any

import numpy as np

from ddpm import figures, figures_truth
from ddpm.files import (
    read_arrays,
    read_csv,
    read_json,
    read_points,
    read_rows,
    read_trajectories,
    reading,
)
from stages.common import (
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
    run,
)

# Parts of T; most of the picture appears late.
_MOMENTS = (1, 0.6, 0.3, 0.15, 0.05, 0)
# Cells of a row in the picture of few steps, and how many evaluations are few.
_COLUMNS, _FEW = 3, 20
_FIELDS = {
    "score": tuple(
        f"score_{name}" for name in ("t", "sigma", "at", "truth", "model", "log_density")
    ),
    "density": ("density_truth", "density_model", "density_reach"),
}


def main() -> None:
    """Write all pictures of the model, and the animation of the reverse process."""
    t, x, x0_hat = read_trajectories(TRAJECTORIES, stage="sample")
    labels = [f"t = {moment:g}" for moment in t]
    moments = [int(np.abs(t - part * t[0]).argmin()) for part in _MOMENTS]
    metrics = read_json(METRICS, stage="evaluate")
    with reading(METRICS, "evaluate"):
        sample_caption, density_caption = _captions(metrics)
    # Before anything is written, everything is drawn: a file that does not fit is told by its name.
    samples, truth = read_points(SAMPLES, stage="sample"), read_points(TRUTH, stage="evaluate")
    drawn = {"samples": figures.samples_beside_truth(truth, samples, sample_caption)}
    training = read_csv(
        TRAINING_CSV, ("step", "loss", "val_loss", "lr", "grad_norm"), stage="train"
    )
    drawn["training"] = figures.training_curve(training)
    with reading(OPTIMAL, "evaluate"):
        optimal = read_arrays(OPTIMAL, ("x0_best",), stage="evaluate")["x0_best"]
        _refuse_misfits({"x0_best": optimal}, {"x0_best": x.shape})
        drawn["reverse"] = figures.reverse_process(
            x[moments], x0_hat[moments], optimal[moments], [labels[k] for k in moments]
        )
        drawn["trajectories"] = figures.trajectories(x, x0_hat, optimal, truth)
    errors = read_csv(
        DENOISING_CSV, ("t", "loss", "optimal", "excess", "excess_nats"), stage="measure"
    )
    memory = read_csv(
        MEMORY_CSV, ("t", "to_truth", "to_sample", "truth_to_sample"), stage="measure"
    )
    with reading(METRICS, "evaluate"):
        drawn["denoising"] = figures_truth.denoising_error(
            errors, memory, metrics["memory"]["verdict"]
        )
    with reading(FIELDS, "measure"):
        score, density = _FIELDS["score"], _FIELDS["density"]
        fields = read_arrays(FIELDS, (*score, *density), stage="measure")
        _refuse_misfits(fields, _shapes(fields))
        drawn["score"] = figures_truth.score_fields(*(fields[name] for name in score))
        drawn["density"] = figures_truth.densities(
            density_caption, *(fields[name] for name in density)
        )
    with reading(SAMPLERS_CSV, "compare"):
        rows = read_rows(SAMPLERS_CSV, stage="compare")
        drawn["samplers"] = figures_truth.samplers(rows)
    with reading(COMPARED, "compare"):
        keys = [
            "/".join((row["sampler"], row["spacing"], row["evaluations"], row["denoiser"]))
            for row in rows
        ]
        points = read_arrays(COMPARED, keys, stage="compare")
        _refuse_misfits(points, {key: (len(points[key]), 2) for key in keys})
        drawn["few_steps"] = figures_truth.few_steps(points, _few(keys))
    attribution = read_json(ATTRIBUTION, stage="attribute")
    with reading(ATTRIBUTION, "attribute"):
        drawn["attribution"] = figures_truth.attribution(attribution)

    for name, figure in drawn.items():
        figures.save(figure, REPORTS / f"{name}.png")
    padded = [f"t = {moment:4g}" for moment in t]
    figures.reverse_animation(x, x0_hat, optimal, padded, REPORTS / "reverse.gif")


def _shapes(fields: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Those that the fields should have, by the model's."""
    k, n = fields["score_model"].shape[:2]
    side = len(fields["density_model"])
    return {
        "score_t": (k,),
        "score_sigma": (k,),
        "score_at": (n, 2),
        "score_truth": (k, n, 2),
        "score_model": (k, n, 2),
        "score_log_density": (k, n),
        "density_truth": (side, side),
        "density_model": (side, side),
        "density_reach": (),
    }


def _refuse_misfits(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        given = arrays[name]
        if given.shape != shape or given.dtype.kind != "f":
            raise ValueError(f"its {name} is {given.dtype} {given.shape}, not float {shape}")


def _few(keys: list[str]) -> list[list[str]]:
    """Of each of some spacings, the cells with the fewest evaluations of the network."""
    lines: dict[str, list[str]] = {}
    for key in keys:
        sampler, spacing, _, denoiser = key.split("/")
        if denoiser == "network":
            lines.setdefault(f"{sampler}/{spacing}", []).append(key)
    few = [
        line[:_COLUMNS]
        for line in lines.values()
        if len(line) >= _COLUMNS and int(line[_COLUMNS - 1].split("/")[2]) <= _FEW
    ]
    return few or [[keys[0]]]


def _captions(metrics: dict[str, Any]) -> tuple[str, str]:
    """One line each for the samples and for the density."""
    energy, rms = metrics["samples"]["energy_distance"], metrics["samples"]["curve_rms"]
    kl, t = metrics["likelihood"]["kl"], metrics["likelihood"]["t"]
    return (
        f"energy distance {energy['value']:.5f} (true sets: {energy['floor']:.5f} ±"
        f" {energy['se']:.5f});  RMS distance to the curve {rms['value']:.4f}"
        f" (true points: {rms['truth']:.4f})",
        f"KL(truth || model) = {kl['value']:.3g} ± {kl['se']:.1g} nats at t = {t}",
    )


if __name__ == "__main__":
    run(main)
