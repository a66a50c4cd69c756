"""Figures of the training run, and of the denoising error of the trained model."""

import pandas as pd
from matplotlib.figure import Figure

from ddpm.plots.style import MODEL, NOISE, TRUTH, styled


@styled()
def training_curve(curve: pd.DataFrame) -> Figure:
    """Loss, learning rate and gradient norm over the steps; columns of reports/training.csv."""
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    loss, rate, norm = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    loss.plot(curve["step"], curve["loss"], color=NOISE, linewidth=1, label="training points")
    loss.plot(curve["step"], curve["val_loss"], color=MODEL, label="test points, averaged weights")
    loss.set_title("loss (most of it cannot be learned: see denoising.png)")
    loss.legend()
    rate.plot(curve["step"], curve["lr"], color=TRUTH)
    rate.set_title("learning rate")
    norm.plot(curve["step"], curve["grad_norm"], color=NOISE, linewidth=1)
    norm.set_title("gradient norm of one step")
    for axes in (loss, rate, norm):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in (rate, norm):
        axes.set_ylim(bottom=0)
    return figure


@styled()
def denoising_error(curve: pd.DataFrame, memory: pd.DataFrame, verdict: str) -> Figure:
    """Denoising errors over t, and distances to the best denoisers of the truth and of the sample.

    Args:
        curve: Columns of reports/denoising.csv.
        memory: Columns of reports/memory.csv.
        verdict: Whether the model has learned or memorised; drawn below.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    errors, nats, distances = figure.subplots(1, 3)
    errors.plot(curve["t"], curve["loss"], color=MODEL, label="model's loss")
    errors.plot(
        curve["t"], curve["optimal"], color=TRUTH, linestyle="--", label="least possible loss"
    )
    errors.plot(curve["t"], curve["excess"], color="black", label="excess")
    errors.set_title("denoising error (units of the prediction)")
    errors.set_yscale("log")
    nats.plot(curve["t"], curve["excess_nats"], color="black")
    nats.set_title("excess of one step, nats of the bound")
    nats.set_yscale("log")
    labels = {
        "to_truth": ("from the model to the truth's best", TRUTH),
        "to_sample": ("from the model to the sample's best", MODEL),
        "truth_to_sample": ("between the two", NOISE),
    }
    for name, (label, color) in labels.items():
        distances.plot(memory["t"], memory[name], color=color, label=label)
    distances.set_title("squared distance of the best guess")
    distances.set_yscale("log")
    for axes in (errors, nats, distances):
        axes.set(xscale="log", xlabel="t")
        axes.grid(alpha=0.3)
    for axes in (errors, distances):
        axes.legend(fontsize=7)
    figure.supxlabel(verdict, fontsize=9)
    return figure
