"""Figures of the forward process and of the noise schedule."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddpm.plots.style import TRUTH, Frames, Points, Values, animate, cloud, styled


@styled()
def forward_process(
    stepwise: Sequence[Points], closed: Sequence[Points], labels: Sequence[str]
) -> Figure:
    """Noisy points at several times from data to noise.

    Args:
        stepwise: Points at each time, noised step by step; the upper row.
        closed: Points at each time, noised in one step by the closed form; the lower row.
        labels: Titles of the columns.
    """
    figure = Figure(figsize=(1.9 * len(labels), 4.0), layout="constrained")
    rows = figure.subplots(2, len(labels), sharex=True, sharey=True)
    names = ("step by step", "in one step")
    for axes_row, frames, name in zip(rows, (stepwise, closed), names, strict=True):
        for axes, points in zip(axes_row, frames, strict=True):
            cloud(axes, points, TRUTH, limit=3.5)
        axes_row[0].set_ylabel(name)
    for axes, label in zip(rows[0], labels, strict=True):
        axes.set_title(label)
    figure.supxlabel("model units: standardised by one scale for both axes", fontsize=8)
    return figure


@styled()
def forward_animation(frames: Frames, labels: Sequence[str], path: Path) -> None:
    """Write an animation of the data as they turn into noise."""
    figure = Figure(figsize=(3.6, 3.8), layout="constrained")
    axes = figure.subplots()
    dots = cloud(axes, frames[0], TRUTH, limit=3.5)

    def show(k: int) -> None:
        dots.set_data(*frames[k].T)
        axes.set_title(labels[k], family="monospace")

    animate(figure, show, len(frames), path, moving=[dots, axes.title])


@styled()
def schedule_coefficients(table: Mapping[str, Values], name: str) -> Figure:
    """Coefficients of a schedule over t; `table` has the columns of reports/schedule.csv."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    contents = (
        ("what is left of the data, and the noise", ("alpha_bar", "sqrt_alpha_bar", "sigma")),
        ("variance of a step and of the posterior", ("beta", "posterior_variance")),
        ("weights of x0 and x_t in the mean of the posterior", ("posterior_x0", "posterior_x_t")),
        ("log signal-to-noise ratio", ("log_snr",)),
    )
    for axes, (title, columns) in zip(panels.flat, contents, strict=True):
        for column, style in zip(columns, ("-", "--", ":"), strict=False):
            axes.plot(table["t"], table[column], style, label=column)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend()
    panels[0, 1].set_yscale("log")
    for axes in panels[1]:
        axes.set_xlabel("t")
    figure.suptitle(f"schedule: {name}", fontsize=9)
    return figure


@styled()
def prior_histogram(x_T: Points, prior_gap: float) -> Figure:
    """Histograms of the coordinates of x_T, and the density of N(0, 1), where sampling starts."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    grid = np.linspace(-4, 4, 201)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    for k, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        axes.hist(
            x_T[:, k], bins=80, range=(-4, 4), density=True, color=TRUTH, alpha=0.6, label="$x_T$"
        )
        axes.plot(grid, density, color="black", linewidth=1.2, label="N(0, 1)")
        axes.set_xlabel(f"coordinate {k + 1}, model units")
        axes.legend()
    figure.suptitle(
        rf"prior gap: mean of KL($q(x_T | x_0)$ || N(0, I)) = {prior_gap:.3g} nats", fontsize=9
    )
    return figure
