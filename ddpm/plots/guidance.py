"""Figures of guidance: samples over exact densities, and nats over the scale."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.plots.style import MODEL, NOISE, TRUTH, Points, styled

Image = Float[np.ndarray, "k k"]

# Parts of the probability inside of each contour.
_CONDITIONAL, _TILTED = (0.99,), (0.5, 0.99)
_CONTOUR = "#2a9d4a"


class Densities(NamedTuple):
    """Exact densities behind samples, on a square grid in data units; rows are y.

    Attributes:
        x: Coordinates of the columns.
        y: Coordinates of the rows.
        whole: Probability of each cell, of the data of all classes.
        conditional: For each cell the mass of the region in which the class has a higher density.
        tilted: The same of the tilted distribution.
    """

    x: Float[np.ndarray, " k"]
    y: Float[np.ndarray, " k"]
    whole: Image
    conditional: Image
    tilted: Image


class Panel(NamedTuple):
    """Samples in one panel, with the title above and the densities behind."""

    title: str
    points: Points
    color: str
    densities: Densities


@styled()
def samples_over_densities(
    rows: Mapping[str, Sequence[Panel]], caption: str, size: float = 2.1
) -> Figure:
    """Panels of samples, one row for each class.

    Args:
        rows: Panels by the name of the row, as many in each row.
        caption: Text below.
        size: Width of a panel, inches.
    """
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(size * columns, (size + 0.3) * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (name, panels) in zip(grid, rows.items(), strict=True):
        axes_row[0].set_ylabel(name)
        for axes, panel in zip(axes_row, panels, strict=True):
            _draw(axes, panel)
    figure.supxlabel(caption, fontsize=9)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    x, y, whole, conditional, tilted = panel.densities
    axes.imshow(
        whole,
        extent=(x[0], x[-1], y[0], y[-1]),
        origin="lower",
        cmap="Greys",
        vmax=1.6 * whole.max(),
    )
    axes.plot(*panel.points.T, ".", color=panel.color, markersize=1.1, markeredgewidth=0, alpha=0.7)
    axes.contour(x, y, conditional, _CONDITIONAL, colors=TRUTH, linewidths=0.9)
    axes.contour(x, y, tilted, _TILTED, colors=_CONTOUR, linewidths=0.9)
    reach = 1.1 * float(np.abs(np.stack((x, y))[:, _inside(whole)]).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=(), aspect="equal")
    axes.set_title(panel.title, fontsize=7.5)


def _inside(whole: Image) -> np.ndarray:
    """Which coordinates have data in their row or column."""
    shown: np.ndarray = (whole > 1e-3 * whole.max()).any(axis=0) | (whole > 1e-3 * whole.max()).any(
        axis=1
    )
    return shown


@styled()
def nats_over_scale(table: pd.DataFrame) -> Figure:
    """Divergences of the flow over the scale, of exact denoisers and of the network.

    Args:
        table: Columns scale, denoiser ("exact" or "network"), to_conditional, to_tilted,
            from_tilted and none_to_tilted, with standard errors where the name ends with _se.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True)
    columns = {
        "to_conditional": "KL(guided || conditional)",
        "to_tilted": "KL(guided || tilted)",
        "from_tilted": "KL(tilted || guided), cut at 30",
    }
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for name, color, label in (
            ("exact", TRUTH, "exact denoisers"),
            ("network", MODEL, "network"),
        ):
            rows = table[table["denoiser"].eq(name)].sort_values("scale")
            error = rows.get(f"{column}_se")
            axes.errorbar(
                rows["scale"], rows[column], error, color=color, marker="o", label=label, capsize=2
            )
        if column == "to_tilted":
            rows = table[table["denoiser"].eq("exact")].sort_values("scale")
            axes.plot(
                rows["scale"], rows["none_to_tilted"], "--", color=NOISE, label="without guidance"
            )
        axes.set(title=title, xlabel="scale")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    panels[0].set_ylabel("nats")
    panels[1].legend()
    return figure


@styled()
def density_ratio(
    x: Float[np.ndarray, " k"], y: Float[np.ndarray, " k"], log_ratio: Image, title: str
) -> Figure:
    """Logarithm of the sampled density over the tilted one; NaN where that has no mass."""
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        log_ratio,
        extent=(x[0], x[-1], y[0], y[-1]),
        origin="lower",
        cmap="RdBu_r",
        vmin=-5,
        vmax=5,
    )
    axes.set(title=title, xticks=(), yticks=(), aspect="equal")
    figure.colorbar(image, ax=axes, label="log (guided / tilted), nats", extend="both")
    return figure
