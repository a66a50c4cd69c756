"""Figures of the score and of the density, of the truth and of the model."""

import math

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ddpm.plots.style import Frames, Points, square_extent, styled


@styled()
def score_fields(
    times: Float[np.ndarray, " k"],
    sigmas: Float[np.ndarray, " k"],
    points: Points,
    truth: Frames,
    model: Frames,
    log_density: Float[np.ndarray, "k n"],
) -> Figure:
    """Arrows of sigma times the score over the true density (above), and the model's error (below).

    Args:
        times: The columns.
        sigmas: Noise level at each time.
        points: Points of a square grid with the centre 0, model units.
        truth: Exact values of sigma times the score at each time and point.
        model: Those of the model.
        log_density: Exact log density at each time and point.
    """
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    rows = figure.subplots(2, len(times), sharex=True, sharey=True, squeeze=False)
    side = math.isqrt(len(points))
    reach = float(points.max())
    square = square_extent(reach, side)
    has_arrow = np.zeros((side, side), bool)
    has_arrow[3::6, 3::6] = True
    sparse = has_arrow.flatten()
    for (above, below), k in zip(rows.T, range(len(times)), strict=True):
        density = np.exp(log_density[k] - log_density[k].max()).reshape(side, side)
        above.imshow(density, extent=square, origin="lower", cmap="Blues", vmax=1.5)
        arrows = truth[k][sparse]
        length = np.linalg.norm(arrows, axis=1, keepdims=True)
        # Arrows longer than 1, far from the data, show their direction alone.
        above.quiver(
            *points[sparse].T,
            *(arrows / np.maximum(length, 1)).T,
            angles="xy",
            scale_units="xy",
            scale=1.6,
            width=0.011,
        )
        error = np.linalg.norm(model[k] - truth[k], axis=1).reshape(side, side)
        image = below.imshow(
            np.log10(error.clip(1e-12)),
            extent=square,
            origin="lower",
            cmap="inferno",
            vmin=-3,
            vmax=1,
        )
        # Nearly all training points lie inside this line; outside, the network is not trained.
        below.contour(density, [1e-4], extent=square, colors="white", linewidths=1)
        above.set_title(rf"t = {times[k]:g},  $\sigma$ = {sigmas[k]:.2g}", fontsize=11)
        above.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    rows[0, 0].set_ylabel("true score, over\nthe true density", fontsize=11)
    rows[1, 0].set_ylabel("error of the\nmodel's score", fontsize=11)
    bar = figure.colorbar(
        image, ax=rows.ravel().tolist(), shrink=0.6, aspect=16, ticks=(-3, -2, -1, 0, 1)
    )
    bar.ax.set_yticklabels(("0.001", "0.01", "0.1", "1", "10"))
    bar.set_label(r"|error of $\sigma$ score|")
    figure.supxlabel(
        "inside the white line: where training had points (density above a ten thousandth of its"
        " maximum);\narrows longer than 1 show their direction alone",
        fontsize=9,
    )
    return figure


@styled()
def densities(
    caption: str,
    truth: Float[np.ndarray, "n n"],
    model: Float[np.ndarray, "n n"],
    reach: Float[np.ndarray, ""],
) -> Figure:
    """Density of the truth and of the model, and the logarithm of their ratio where data are.

    Args:
        caption: Drawn below.
        truth: Exact log density on a square grid, data units; rows are y, columns are x.
        model: That of the model.
        reach: The square is [-reach, reach]^2.
    """
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    square = square_extent(float(reach), len(truth))
    max_density = float(np.exp(truth.max()))
    for axes, log_density, title in zip(panels, (truth, model), ("truth", "model"), strict=False):
        image = axes.imshow(
            np.exp(log_density.clip(max=50)),
            extent=square,
            origin="lower",
            cmap="magma",
            vmin=0,
            vmax=max_density,
        )
        axes.set_title(f"density of the {title}")
    figure.colorbar(image, ax=panels[:2].tolist(), shrink=0.8)
    has_data = truth > truth.max() - 9
    log_ratio = np.where(has_data, model - truth, np.nan)
    image = panels[2].imshow(
        log_ratio, extent=square, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1
    )
    panels[2].set_title("log (model / truth), where data are")
    figure.colorbar(image, ax=panels[2], shrink=0.8, label="nats", extend="both")
    figure.supxlabel(caption, fontsize=9)
    return figure
