"""Figures that compare samplers, and that attribute the error to the network or the sampler."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from ddpm.plots.style import MODEL, TRUTH, OtherPoints, cloud, styled


@styled()
def samplers(table: pd.DataFrame) -> Figure:
    """Energy distance over evaluations, log-log; `table` has columns of reports/samplers.csv."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    se = table["energy_distance_se"].min()
    floor = table["energy_distance_floor"][0]
    lines = sorted(set(zip(table["sampler"], table["spacing"], strict=True)))
    colors = dict(zip(lines, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    for axes, denoiser, style in zip(panels, ("exact", "network"), ("--", "-"), strict=True):
        for sampler, spacing in lines:
            cells = table[
                (table["sampler"] == sampler)
                & (table["spacing"] == spacing)
                & (table["denoiser"] == denoiser)
            ]
            # A distance within one standard error of the floor is drawn at that standard error: it
            # cannot be distinguished from the floor, and the axis is logarithmic.
            excess = (cells["energy_distance"] - floor).clip(lower=se)
            axes.plot(
                *(cells["evaluations"], excess, style),
                marker="o",
                markersize=3,
                color=colors[sampler, spacing],
                label=f"{sampler}  {spacing}",
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


@styled()
def few_steps(points: Mapping[str, OtherPoints], shown: Sequence[Sequence[str]]) -> Figure:
    """Samples drawn with few evaluations.

    Args:
        points: Samples by "sampler/spacing/evaluations/denoiser", as in data/compared.npz.
        shown: Keys of `points`, one row for each sampler and spacing.
    """
    figure = Figure(figsize=(1.9 * len(shown[0]), 2.1 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), len(shown[0]), sharex=True, sharey=True, squeeze=False)
    for axes_row, keys in zip(rows, shown, strict=True):
        for axes, key in zip(axes_row, keys, strict=True):
            sampler, spacing, evaluations, _ = key.split("/")
            cloud(axes, points[key], MODEL, limit=1.25)
            axes.set_title(f"{evaluations} evaluations")
        axes_row[0].set_ylabel(f"{sampler}\n{spacing}")
    return figure


@styled()
def attribution(results: Mapping[str, Any]) -> Figure:
    """Energy distance and log density of each combination of denoiser and sampler.

    Args:
        results: Contents of reports/attribution.json.
    """
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    combinations = {
        "exact_sampler": "exact denoiser\n+ this sampler",
        "network_solver": "network\n+ converged solver",
        "network_sampler": "network\n+ this sampler",
        "exact_solver": "exact denoiser\n+ converged solver",
    }
    for row, name in enumerate(combinations):
        for axes, measure in ((left, "energy_distance"), (right, "log_density")):
            estimate = results[name][measure]
            axes.errorbar(
                *(estimate["value"], row),
                xerr=2 * estimate["se"],
                fmt="o",
                color=MODEL,
                capsize=3,
            )
    floor = results["exact_sampler"]["energy_distance"]["floor"]
    truth = results["truth"]["log_density"]
    left.axvline(floor, color=TRUTH, label="floor: true against true")
    right.axvline(truth["value"], color=TRUTH, label="of true points, ± 2 se")
    right.axvspan(
        *(truth["value"] - 2 * truth["se"], truth["value"] + 2 * truth["se"]),
        color=TRUTH,
        alpha=0.2,
    )
    left.set_yticks(range(len(combinations)), combinations.values())
    left.set(title="energy distance, ± 2 se", ylim=(len(combinations) - 0.5, -0.5))
    right.set_title(f"mean log density under the truth at t = {results['t']}, nats")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=5)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3, axis="x")
    return figure
