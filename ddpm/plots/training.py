"""Figures of the training run, and of the denoising error of the trained model."""

import pandas as pd
from matplotlib.figure import Figure

from ddpm.plots.style import MODEL, NOISE, TRUTH, styled


@styled()
def training_curve(curve: pd.DataFrame, least: float) -> Figure:
    """Losses, their distance from the least possible one, learning rate and gradient norm.

    Args:
        curve: Columns of reports/training.csv.
        least: Least possible loss on the points of the validation loss.
    """
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    loss, excess, rate, norm = figure.subplots(1, 4, width_ratios=(3, 3, 2, 2))
    # Averaged targets vary less, so this curve may lie far below the other.
    loss.plot(curve["step"], curve["loss"], color=NOISE, linewidth=1, label="training targets")
    loss.plot(curve["step"], curve["val_loss"], color=MODEL, label="test points, averaged weights")
    loss.axhline(least, color=TRUTH, linestyle="--", label="least possible on the test points")
    loss.set_title("loss")
    loss.legend()
    excess.plot(curve["step"], curve["val_loss"] - least, color=MODEL)
    excess.set(title="loss on test points minus the least possible", yscale="log")
    rate.plot(curve["step"], curve["lr"], color=TRUTH)
    rate.set_title("learning rate")
    norm.plot(curve["step"], curve["grad_norm"], color=NOISE, linewidth=1)
    norm.set_title("norm of the gradient")
    for axes in (loss, excess, rate, norm):
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=4)
        axes.grid(alpha=0.3)
    for axes in (loss, rate, norm):
        axes.set_ylim(bottom=0)
    return figure


@styled()
def denoising_error(curve: pd.DataFrame, memory: pd.DataFrame) -> Figure:
    """Denoising errors over t, and distances to the best denoisers of the truth and of the sample.

    Args:
        curve: Columns of reports/denoising.csv.
        memory: Columns of reports/memory.csv.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    (errors, nats), (distances, share) = figure.subplots(2, 2, sharex=True)
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
    # Beyond this the error of the share would hide the rest.
    share.set_ylim(-0.5, 1.5)
    for height, label in ((0, "learned the distribution"), (1, "memorised the sample")):
        share.axhline(height, color=NOISE, linestyle="--")
        share.annotate(label, (1, height - 0.04), color=NOISE, fontsize=7, va="top")
    share.errorbar(memory["t"], memory["share"], 2 * memory["share_se"], color=MODEL, capsize=2)
    share.set_title("share of the way from truth to sample (± 2 standard errors)")
    for axes in (errors, nats, distances, share):
        axes.set(xscale="log")
        axes.grid(alpha=0.3)
    for axes in (distances, share):
        axes.set_xlabel("t")
    for axes in (errors, distances):
        axes.legend(fontsize=7)
    return figure
