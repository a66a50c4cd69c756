"""Figures of the samples, and of the reverse process that produces them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ddpm.plots.style import (
    MODEL,
    NOISE,
    TRUTH,
    Frames,
    OtherPoints,
    Points,
    animate,
    cloud,
    count_outside,
    styled,
)


@styled()
def samples_beside_truth(
    truth: Points,
    samples: OtherPoints,
    distances_truth: Float[np.ndarray, " n"],
    distances_samples: Float[np.ndarray, " m"],
    caption: str,
) -> Figure:
    """True points and samples side by side, and how thick the two spirals are.

    Args:
        truth: True points, data units.
        samples: Samples of the model, data units.
        distances_truth: Distances of true points to the noiseless curve, data units.
        distances_samples: Distances of the samples to it.
        caption: Text below.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    first, second, thickness = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    second.sharex(first)
    second.sharey(first)
    names = ("truth", "samples of the model")
    limit = 1.25
    for axes, points, color, title in zip(
        (first, second), (truth, samples), (TRUTH, MODEL), names, strict=True
    ):
        cloud(axes, points, color, limit=limit, size=1.2)
        outside = count_outside(points, limit)
        axes.set_title(f"{title}: {len(points):,} points" + f", {outside}" * bool(outside))
    both = (distances_truth, distances_samples)
    bins = np.linspace(0, 1.25 * max(np.quantile(distances, 0.99) for distances in both), 41)
    for distances, color, label in zip(both, (TRUTH, MODEL), names, strict=True):
        density = np.histogram(distances, bins)[0] / (len(distances) * np.diff(bins))
        thickness.stairs(density, bins, color=color, label=label, linewidth=1.5)
    thickness.set(title="thickness of the spiral", xlabel="distance to the curve")
    thickness.set_ylabel("density")
    thickness.legend(frameon=False)
    figure.supxlabel(caption, fontsize=9)
    return figure


@styled()
def reverse_process(x: Frames, x0_hat: Frames, optimal: Frames, labels: Sequence[str]) -> Figure:
    """x_t, the model's prediction of x_0 and the exact one, at several times from noise to data.

    Args:
        x: x_t at each time, data units.
        x0_hat: Predictions of x_0 by the model.
        optimal: Exact predictions E[x_0 | x_t].
        labels: Titles of the columns.
    """
    figure = Figure(figsize=(1.6 * len(labels), 5.2), layout="constrained")
    rows = figure.subplots(3, len(labels), sharex=True, sharey=True)
    contents = (
        (x, NOISE, "$x_t$"),
        (x0_hat, MODEL, r"$\hat{x}_0$, model"),
        (optimal, TRUTH, r"$E[x_0\,|\,x_t]$, exact"),
    )
    for axes_row, (frames, color, name) in zip(rows, contents, strict=True):
        for axes, points in zip(axes_row, frames, strict=True):
            cloud(axes, points, color, limit=1.9)
            axes.set_xlabel(count_outside(points, 1.9), fontsize=7)
        axes_row[0].set_ylabel(name)
    for axes, label in zip(rows[0], labels, strict=True):
        axes.set_title(label)
    return figure


@styled()
def reverse_animation(
    x: Frames,
    x0_hat: Frames,
    optimal: Frames,
    labels: Sequence[str],
    path: Path,
    width: float = 9.2,
) -> None:
    """Write an animation of the reverse process.

    Args:
        x: x_t at each time, data units.
        x0_hat: Predictions of x_0 by the model.
        optimal: Exact predictions E[x_0 | x_t].
        labels: Times, for the title of each frame.
        path: File to write.
        width: Width of the figure in inches.
    """
    figure = Figure(figsize=(width, 3.6 * width / 9.2), layout="constrained")
    contents = (x, x0_hat, optimal)
    panels = figure.subplots(1, len(contents), sharex=True, sharey=True)
    clouds = [
        cloud(axes, frames[0], color, limit=1.9)
        for axes, frames, color in zip(panels, contents, (NOISE, MODEL, TRUTH), strict=True)
    ]
    panels[1].set_title("the model's prediction of $x_0$")
    panels[2].set_title("the best possible one, exact")

    def show(k: int) -> None:
        for dots, frames in zip(clouds, contents, strict=True):
            dots.set_data(*frames[k].T)
        panels[0].set_title(rf"$x_t$ at {labels[k]}", family="monospace")

    animate(figure, show, len(x), path, moving=[*clouds, panels[0].title])


@styled()
def trajectories(
    x: Frames, x0_hat: Frames, optimal: Frames, curve: OtherPoints, shown: int = 3
) -> Figure:
    """Trajectories of single points from noise to data, with the predictions of x_0 along them.

    Args:
        x: x_t at each time, data units.
        x0_hat: Predictions of x_0 by the model.
        optimal: Exact predictions E[x_0 | x_t].
        curve: True points, drawn in the background.
        shown: Number of points whose trajectories are drawn.
    """
    figure = Figure(figsize=(3.1 * shown, 3.7), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, shown, sharex=True, sharey=True)):
        cloud(axes, curve, "#d5d8dc", limit=1.9)
        axes.plot(*x[:, k].T, color=NOISE, linewidth=0.8, label="$x_t$")
        axes.plot(*x[0, k], "o", color=NOISE, markersize=4, label="start")
        axes.plot(
            *optimal[:, k].T, color=TRUTH, linewidth=2.6, alpha=0.5, label="exact $E[x_0|x_t]$"
        )
        axes.plot(*x0_hat[:, k].T, color=MODEL, linewidth=1, label=r"model's $\hat{x}_0$")
        axes.plot(*x[-1, k], "o", color="black", markersize=4, label="end")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
