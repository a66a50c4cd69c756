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
    """Arrows of sigma times the score, over the true density (above) and the model's error (below).

    Args:
        times: The columns.
        sigmas: Noise level at each time.
        points: Points of a square grid with the centre 0, model units.
        truth: Exact values of sigma times the score at each time and point.
        model: Those of the model.
        log_density: Exact log density at each time and point.
    """
    figure = Figure(figsize=(10, 5.1), layout="constrained")
    rows = figure.subplots(2, len(times), sharex=True, sharey=True, squeeze=False)
    side = math.isqrt(len(points))
    reach = float(points.max())
    square = square_extent(reach, side)
    has_arrow = np.zeros((side, side), bool)
    has_arrow[2::4, 2::4] = True
    sparse = has_arrow.flatten()
    for k, (t, sigma) in enumerate(zip(times, sigmas, strict=True)):
        density = np.exp(log_density[k] - log_density[k].max()).reshape(side, side)
        rows[0, k].imshow(density, extent=square, origin="lower", cmap="Blues", vmax=1.5)
        error = np.linalg.norm(model[k] - truth[k], axis=1).reshape(side, side)
        image = rows[1, k].imshow(
            np.log10(error.clip(1e-12)),
            extent=square,
            origin="lower",
            cmap="inferno",
            vmin=-3,
            vmax=1,
        )
        # Nearly all training points lie inside this line; outside, the network is not trained.
        rows[1, k].contour(density, [1e-4], extent=square, colors="white", linewidths=0.7)
        for axes, field, color in zip(
            rows[:, k], (truth[k], model[k]), ("black", "white"), strict=True
        ):
            arrows = field[sparse]
            length = np.linalg.norm(arrows, axis=1, keepdims=True)
            # Arrows longer than 1, far from the data, show their direction alone.
            axes.quiver(
                *points[sparse].T,
                *(arrows / np.maximum(length, 1)).T,
                color=color,
                angles="xy",
                scale_units="xy",
                scale=2.2,
                width=0.006,
            )
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        rows[0, k].set_title(rf"t = {t:g},  $\sigma$ = {sigma:.2g}")
    rows[0, 0].set_ylabel("truth, over its density")
    rows[1, 0].set_ylabel("model, over its error")
    bar = figure.colorbar(image, ax=rows[:, -1].tolist(), shrink=0.6)
    bar.set_label(r"$\log_{10}$ |error of $\sigma$ score|")
    figure.supxlabel(
        "white line: a ten thousandth of the greatest density, beyond which training had hardly any"
        " points; arrows longer than 1 show their direction alone",
        fontsize=8,
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
