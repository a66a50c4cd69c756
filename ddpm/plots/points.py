"""The figure of a model of points whose distribution is not known."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.figure import Figure

from ddpm.plots.style import Points, styled

# For colour-blind readers: Okabe and Ito's colours. Further labels repeat them.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Largest number of labels that the legend names, and range of the log density that is shown.
_NAMED, _RANGE = 7, 8.0


class Cloud(NamedTuple):
    """Points in data units, the number of the label of each, and a colour if there are none."""

    title: str
    points: Points
    labels: Int64[np.ndarray, " n"]
    color: str


@styled()
def points_and_density(
    held_out: Cloud,
    samples: Cloud,
    classes: Sequence[str],
    x: Float[np.ndarray, " k"],
    y: Float[np.ndarray, " k"],
    log_density: Float[np.ndarray, "k k"],
    *,
    caption: str,
) -> Figure:
    """Points, samples of the model, and the logarithm of its density, side by side.

    Args:
        held_out: Held-out points.
        samples: Samples of the model.
        classes: Names of the labels; empty if there are none.
        x: Coordinates of the columns of the density.
        y: Coordinates of its rows.
        log_density: In nats, data units.
        caption: Text below.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, cloud in zip(panels, (held_out, samples), strict=False):
        for label in range(max(1, len(classes))):
            axes.plot(
                *cloud.points[cloud.labels == label].T,
                ".",
                color=_COLORS[label % len(_COLORS)] if classes else cloud.color,
                markersize=2.4,
                markeredgewidth=0,
            )
        beyond = (cloud.points < (x[0], y[0])) | (cloud.points > (x[-1], y[-1]))
        outside = int(beyond.any(axis=1).sum())
        title = f"{cloud.title}: {len(cloud.points):,}"
        axes.set_title(title + f", {outside:,} outside" * bool(outside))
    if 0 < len(classes) <= _NAMED:
        # Not as formulas; and a leading underscore would hide a name.
        names = [name.replace("$", r"\$") for name in classes]
        panels[0].legend(panels[0].lines, names, markerscale=4, handletextpad=0.1, borderaxespad=0)
    image = panels[2].pcolormesh(
        x,
        y,
        log_density,
        # Few colours, so that enough of the file's palette are left for the labels.
        cmap=mpl.colormaps["magma"].resampled(32),
        vmax=log_density.max(),
        vmin=log_density.max() - _RANGE,
        shading="nearest",
        rasterized=True,
    )
    figure.colorbar(image, ax=panels[2], shrink=0.8, label="nats", extend="min")
    panels[2].set_title("log density of the model")
    panels[0].set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    for axes in panels:
        axes.set_aspect("equal")
    figure.supxlabel(caption, fontsize=9)
    return figure
