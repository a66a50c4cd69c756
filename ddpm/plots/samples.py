"""Figures of the samples, and of the reverse process that produces them."""

from collections.abc import Sequence
from pathlib import Path

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
def samples_beside_truth(truth: Points, samples: OtherPoints, caption: str) -> Figure:
    """True points and samples side by side, data units, with a caption below."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    limit = 1.25
    for axes, points, color, title in zip(
        panels, (truth, samples), (TRUTH, MODEL), ("truth", "samples of the model"), strict=True
    ):
        cloud(axes, points, color, limit=limit, size=1.2)
        outside = count_outside(points, limit)
        axes.set_title(f"{title}: {len(points):,} points" + f", {outside}" * bool(outside))
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

    animate(figure, show, len(x), path)


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
