"""Pictures of what is measured against the exact truth; see `figures` for the rest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from ddpm.figures import MODEL, NOISE, TRUTH, Frames, OtherPoints, Points, Values, cloud


def denoising_error(curve: Mapping[str, Values], memory: Mapping[str, Values], said: str) -> Figure:
    """Errors over t; `curve` and `memory` have the columns of denoising.csv and memory.csv."""
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
    figure.supxlabel(said, fontsize=9)
    return figure


def samplers(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Energy distance by evaluations, log-log; `rows` have the columns of reports/samplers.csv."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    se = min(float(row["energy_distance_se"]) for row in rows)
    floor = float(rows[0]["energy_distance_floor"])
    lines = sorted({(row["sampler"], row["spacing"]) for row in rows})
    colors = dict(zip(lines, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    for axes, denoiser, style in zip(panels, ("exact", "network"), ("--", "-"), strict=True):
        for line in lines:
            cells = [row for row in rows if (*line, denoiser) == _named(row)]
            x = [float(row["evaluations"]) for row in cells]
            # What lies below the floor's spread is drawn on its edge: it cannot be told from truth.
            y = [max(float(row["energy_distance"]) - floor, se) for row in cells]
            axes.plot(
                *(x, y), style, marker="o", markersize=3, color=colors[line], label="  ".join(line)
            )
        axes.axhspan(se / 3, se, color=TRUTH, alpha=0.15)
        axes.set(xscale="log", yscale="log", xlabel="evaluations of the denoiser")
        axes.set_title(f"{denoiser} denoiser" if denoiser == "exact" else denoiser)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("energy distance less its floor")
    panels[0].text(
        0.02,
        0.02,
        "within one standard error of true sets",
        transform=panels[0].transAxes,
        fontsize=7,
    )
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def few_steps(points: Mapping[str, OtherPoints], shown: Sequence[Sequence[str]]) -> Figure:
    """Samples after few evaluations; `shown` has rows of keys of `points`, as in compared.npz."""
    figure = Figure(figsize=(1.9 * len(shown[0]), 2.1 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), len(shown[0]), sharex=True, sharey=True, squeeze=False)
    for axes_row, keys in zip(rows, shown, strict=True):
        for axes, key in zip(axes_row, keys, strict=True):
            sampler, spacing, evaluations, _ = key.split("/")
            cloud(axes, points[key], MODEL, limit=1.25)
            axes.set_title(f"{evaluations} evaluations")
        axes_row[0].set_ylabel(f"{sampler}\n{spacing}")
    return figure


def _named(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["sampler"], row["spacing"], row["denoiser"]


def score_fields(
    times: Float[np.ndarray, " k"],
    sigmas: Float[np.ndarray, " k"],
    at: Points,
    truth: Frames,
    model: Frames,
    log_density: Float[np.ndarray, "k n"],
) -> Figure:
    """The score times sigma, truth above and model below; the colour is the model's error."""
    figure = Figure(figsize=(10, 5.1), layout="constrained")
    rows = figure.subplots(2, len(times), sharex=True, sharey=True, squeeze=False)
    side = math.isqrt(len(at))
    reach = float(at.max())
    square = _square(reach, side)
    every = np.zeros((side, side), bool)
    every[2::4, 2::4] = True
    sparse = every.flatten()
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
        # Where nearly all of the data is: beyond, the network was never asked.
        rows[1, k].contour(density, [1e-4], extent=square, colors="white", linewidths=0.7)
        for axes, field, color in zip(
            rows[:, k], (truth[k], model[k]), ("black", "white"), strict=True
        ):
            arrows = field[sparse]
            length = np.linalg.norm(arrows, axis=1, keepdims=True)
            # Unit steps are shown as they are; a longer one, far from the data, only by direction.
            axes.quiver(
                *at[sparse].T,
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


def densities(
    caption: str,
    truth: Float[np.ndarray, "n n"],
    model: Float[np.ndarray, "n n"],
    reach: Float[np.ndarray, ""],
) -> Figure:
    """Density of truth and model, and the logarithm of their ratio where there are data."""
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    square = _square(float(reach), len(truth))
    top = float(np.exp(truth.max()))
    for axes, log_density, title in zip(panels, (truth, model), ("truth", "model"), strict=False):
        image = axes.imshow(
            np.exp(log_density.clip(max=50)),
            extent=square,
            origin="lower",
            cmap="magma",
            vmin=0,
            vmax=top,
        )
        axes.set_title(f"density of the {title}")
    figure.colorbar(image, ax=panels[:2].tolist(), shrink=0.8)
    likely = truth > truth.max() - 9
    ratio = np.where(likely, model - truth, np.nan)
    image = panels[2].imshow(ratio, extent=square, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
    panels[2].set_title("log (model / truth), where data are")
    figure.colorbar(image, ax=panels[2], shrink=0.8, label="nats", extend="both")
    figure.supxlabel(caption, fontsize=9)
    return figure


def attribution(found: Mapping[str, Any]) -> Figure:
    """Energy distance and log density of each arm, with two standard errors, beside the truth's."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    arms = {
        "exact_sampler": "exact denoiser\n+ this sampler",
        "network_solver": "network\n+ converged solver",
        "network_sampler": "network\n+ this sampler",
        "exact_solver": "exact denoiser\n+ converged solver",
    }
    for row, name in enumerate(arms):
        for axes, measure in ((left, "energy_distance"), (right, "log_density")):
            one = found[name][measure]
            axes.errorbar(one["value"], row, xerr=2 * one["se"], fmt="o", color=MODEL, capsize=3)
    floor = found["exact_sampler"]["energy_distance"]["floor"]
    true = found["truth"]["log_density"]
    left.axvline(floor, color=TRUTH, label="floor: true against true")
    right.axvline(true["value"], color=TRUTH, label="of true points, ± 2 se")
    right.axvspan(
        true["value"] - 2 * true["se"], true["value"] + 2 * true["se"], color=TRUTH, alpha=0.2
    )
    left.set_yticks(range(len(arms)), arms.values())
    left.set(title="energy distance, ± 2 se", ylim=(len(arms) - 0.5, -0.5))
    right.set_title(f"mean log density under the truth at t = {found['t']}, nats")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=5)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3, axis="x")
    return figure


def _square(reach: float, side: int) -> tuple[float, float, float, float]:
    """Extent of an image whose outermost pixels have their middles at -reach and reach."""
    edge = reach * side / (side - 1)
    return (-edge, edge, -edge, edge)
