"""Draw what the other stages measured; nothing is computed here."""

import numpy as np

from ddpm import figures, figures_truth
from ddpm.files import read_arrays, read_csv, read_json, read_points, reading
from stages.common import (
    ATTRIBUTION,
    DENOISING_CSV,
    FIELDS,
    MEMORY_CSV,
    METRICS,
    OPTIMAL,
    REPORTS,
    SAMPLES,
    TRAINING_CSV,
    TRAJECTORIES,
    TRUTH,
    run,
)

# Parts of T; most of the picture appears late.
_MOMENTS = (1, 0.6, 0.3, 0.15, 0.05, 0)


def main() -> None:
    """Write all pictures of the model, and the animation of the reverse process."""
    samples = read_points(SAMPLES, stage="sample")
    truth = read_points(TRUTH, stage="evaluate")
    metrics = read_json(METRICS, stage="evaluate")
    with reading(METRICS, "evaluate"):
        energy, kl = metrics["samples"]["energy_distance"], metrics["likelihood"]["kl"]
        distance = f"energy distance {energy['value']:.5f} ± {energy['se']:.5f}"
        divergence = (
            f"KL(truth || model) = {kl['value']:.4f} ± {kl['se']:.4f} nats"
            f" at t = {metrics['likelihood']['t']}"
        )
        verdict = metrics["memory"]["verdict"]
    attribution = read_json(ATTRIBUTION, stage="attribute")
    training = read_csv(
        TRAINING_CSV, ("step", "loss", "val_loss", "lr", "grad_norm"), stage="train"
    )
    denoising = read_csv(
        DENOISING_CSV, ("t", "loss", "optimal", "excess", "excess_nats"), stage="measure"
    )
    memory = read_csv(
        MEMORY_CSV, ("t", "to_truth", "to_sample", "truth_to_sample"), stage="measure"
    )
    names = ("t", "sigma", "at", "truth", "model", "log_density")
    fields = read_arrays(
        FIELDS,
        (*(f"score_{name}" for name in names), "density_truth", "density_model", "density_reach"),
        stage="measure",
    )
    kept = read_arrays(TRAJECTORIES, ("t", "x", "x0_hat"), stage="sample")
    optimal = read_arrays(OPTIMAL, ("x0_best",), stage="evaluate")["x0_best"]
    t, x, x0_hat = kept["t"], kept["x"], kept["x0_hat"]
    labels = [f"t = {moment:4d}" for moment in t]
    chosen = [int(np.abs(t - part * t[0]).argmin()) for part in _MOMENTS]

    drawn = {
        "samples": figures.samples_beside_truth(truth, samples, distance),
        "training": figures.training_curve(training),
        "reverse": figures.reverse_process(
            x[chosen], x0_hat[chosen], optimal[chosen], [labels[k] for k in chosen]
        ),
        "trajectories": figures.trajectories(x, x0_hat, optimal, truth),
        "denoising": figures_truth.denoising_error(denoising, memory, verdict),
        "score": figures_truth.score_fields(*(fields[f"score_{name}"] for name in names)),
        "density": figures_truth.densities(
            fields["density_truth"],
            fields["density_model"],
            float(fields["density_reach"]),
            divergence,
        ),
        "attribution": figures_truth.attribution(attribution),
    }
    for name, figure in drawn.items():
        figures.save(figure, REPORTS / f"{name}.png")
    figures.reverse_animation(x, x0_hat, optimal, labels, REPORTS / "reverse.gif")


if __name__ == "__main__":
    run(main)
