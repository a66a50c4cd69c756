"""Figures that compare samplers, and that attribute the error to the network or the sampler."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.plots.style import MODEL, NOISE, TRUTH, OtherPoints, cloud, square_extent, styled

# Colours of Okabe and Ito and a grey, which colour-blind readers can distinguish.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
# Least distance between the names of two lines, as a part of the axis.
_SPREAD = 0.05
# Where no sample strays, the figure shows this percentage.
_NO_STRAYS = 0.01


@styled()
def samplers(table: pd.DataFrame) -> Figure:
    """Nats and strays over evaluations, log-log; `table` has columns of reports/samplers.csv.

    A value within two standard errors of 0 is drawn as an arrow that starts there, and a lower
    bound as a hollow point.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = dict(zip(table["sampler"].unique(), itertools.cycle(_COLORS), strict=False))
    network, exact = (table[table["denoiser"] == name] for name in ("network", "exact"))
    for axes, cells in zip(panels, (exact, network), strict=False):
        small = cells["reverse_kl"] < 2 * cells["reverse_kl_se"]
        nats = cells["reverse_kl"].where(~small, 2 * cells["reverse_kl_se"])
        se = cells["reverse_kl_se"].where(~small, 0)
        _lines(axes, cells, nats, se, colors, arrows=small, hollow=cells["folded"] > 0)
    strays = 100 * network["strays"]
    none = strays == 0
    _lines(panels[2], network, strays.where(~none, _NO_STRAYS), 0 * strays, colors, arrows=none)
    panels[0].set_title("KL(sampler || truth) in nats, exact denoiser")
    panels[1].set_title("KL(sampler || truth) in nats, network")
    panels[2].set_title("strays in per cent, network")
    for axes in panels:
        axes.set_xlabel("evaluations of the denoiser")
    return figure


def _lines(
    axes: Axes,
    cells: pd.DataFrame,
    values: pd.Series,
    se: pd.Series,
    colors: Mapping[str, str],
    *,
    arrows: pd.Series,
    hollow: pd.Series | None = None,
) -> None:
    """Draw a line with its name for each sampler and spacing, where there are values."""
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    hollow = pd.Series(False, index=cells.index) if hollow is None else hollow
    ends = []
    for (sampler, spacing), line in cells[values.notna()].groupby(["sampler", "spacing"]):
        x, y, color = line["evaluations"], values[line.index], colors[str(sampler)]
        axes.errorbar(x, y, se[line.index], color=color, linewidth=1, elinewidth=0.8)
        for k in line.index:
            marker = "v" if arrows[k] else "o"
            face = "white" if hollow[k] else color
            axes.plot(x[k], y[k], marker, markersize=4, color=color, markerfacecolor=face)
        ends.append((float(x.iloc[-1]), float(y.iloc[-1]), f"{sampler} {spacing}", color))
    low, high = map(math.log10, axes.get_ylim())
    previous = -math.inf
    for end, value, name, color in sorted(ends, key=lambda line_end: line_end[1]):
        # Names of lines that end close to one another are moved apart.
        height = max((math.log10(value) - low) / (high - low), previous + _SPREAD)
        previous = height
        axes.annotate(
            *(name, (end, value)),
            xytext=(1.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=6.5,
            color=color,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "alpha": 0.6},
        )


@styled()
def few_steps(
    points: Mapping[str, OtherPoints],
    shown: Sequence[Sequence[str]],
    nats: Mapping[str, str],
    truth: Float[np.ndarray, "n n"],
    reach: float,
) -> Figure:
    """Samples drawn with few evaluations, over the true density, with their nats.

    Args:
        points: Samples by "sampler/spacing/evaluations/denoiser", as in data/compared.npz.
        shown: Keys of `points`, one row for each sampler and spacing.
        nats: KL(sampler || truth) in words, by the same keys; empty where it is not known.
        truth: Exact log density on a square grid, data units; rows are y, columns are x.
        reach: The square is [-reach, reach]^2.
    """
    figure = Figure(figsize=(2.3 * len(shown[0]), 2.5 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), len(shown[0]), sharex=True, sharey=True, squeeze=False)
    for axes_row, keys in zip(rows, shown, strict=True):
        for axes, key in zip(axes_row, keys, strict=True):
            sampler, spacing, evaluations, _ = key.split("/")
            axes.imshow(
                np.sqrt(np.exp(truth.clip(max=50))),
                extent=square_extent(reach, len(truth)),
                origin="lower",
                cmap="Greys",
                alpha=0.6,
            )
            cloud(axes, points[key], MODEL, limit=reach, size=1.2)
            axes.set_title(f"{evaluations} evaluations" + f": {nats[key]}" * bool(nats[key]))
        axes_row[0].set_ylabel(f"{sampler}\n{spacing}")
    return figure


@styled()
def attribution(results: Mapping[str, Any]) -> Figure:
    """Log density of each combination of denoiser and sampler, relative to that of true points.

    Args:
        results: Contents of reports/attribution.json.
    """
    figure = Figure(figsize=(7, 2.9), layout="constrained")
    axes = figure.subplots()
    combinations = {
        "exact_sampler": "exact denoiser, this sampler",
        "network_solver": "network, converged solver",
        "network_sampler": "network, this sampler",
        "exact_solver": "exact denoiser, converged solver",
    }
    truth = results["truth"]["log_density"]
    for row, name in enumerate(combinations):
        samples = results[name]["log_density"]
        gap, error = samples["value"] - truth["value"], math.hypot(samples["se"], truth["se"])
        axes.errorbar(gap, row, xerr=2 * error, fmt="o", color=MODEL, capsize=3)
    reach = 1.1 * max(map(abs, axes.get_xlim()))
    axes.axvline(0, color=TRUTH)
    axes.set(xlim=(-reach, reach), ylim=(len(combinations) - 0.5, -0.9))
    axes.set_yticks(range(len(combinations)), combinations.values())
    axes.set_xlabel(
        f"mean log density minus that of true points, at t = {results['t']}, nats (± 2 se)"
    )
    for x, side, text in (
        (0.02, "left", "\N{LEFTWARDS ARROW} too spread out, or astray"),
        (0.98, "right", "too thin \N{RIGHTWARDS ARROW}"),
    ):
        axes.text(x, 0.97, text, transform=axes.transAxes, ha=side, va="top", color=NOISE)
    axes.locator_params(axis="x", nbins=7)
    axes.grid(alpha=0.3, axis="x")
    return figure
