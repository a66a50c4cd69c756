"""Draw what the other stages measured; nothing is computed here."""

import numpy as np

from ddpm import figures
from ddpm.files import read_arrays, read_csv, read_json, read_points, reading
from stages.common import METRICS, REPORTS, SAMPLES, TRAINING_CSV, TRAJECTORIES, TRUTH, run

# Parts of T; most of the picture appears late.
_MOMENTS = (1, 0.6, 0.3, 0.15, 0.05, 0)


def main() -> None:
    """Write samples beside truth, the training curve, and the reverse process."""
    samples = read_points(SAMPLES, stage="sample")
    truth = read_points(TRUTH, stage="evaluate")
    metrics = read_json(METRICS, stage="evaluate")
    with reading(METRICS, "evaluate"):
        energy = metrics["samples"]["energy_distance"]
        caption = f"energy distance {energy['value']:.5f} ± {energy['se']:.5f}"
    curve = read_csv(TRAINING_CSV, ("step", "loss", "val_loss", "lr", "grad_norm"), stage="train")
    kept = read_arrays(TRAJECTORIES, ("t", "x", "x0_hat"), stage="sample")
    t, x, x0_hat = kept["t"], kept["x"], kept["x0_hat"]
    labels = [f"t = {moment:4d}" for moment in t]
    chosen = [int(np.abs(t - part * t[0]).argmin()) for part in _MOMENTS]

    figures.save(figures.samples_beside_truth(truth, samples, caption), REPORTS / "samples.png")
    figures.save(figures.training_curve(curve), REPORTS / "training.png")
    figures.save(
        figures.reverse_process(x[chosen], x0_hat[chosen], [labels[k] for k in chosen]),
        REPORTS / "reverse.png",
    )
    figures.reverse_animation(x, x0_hat, labels, REPORTS / "reverse.gif")


if __name__ == "__main__":
    run(main)
