"""Draw what `measure_guidance` measured; nothing is computed here."""

from pathlib import Path

import numpy as np

from ddpm.core.params import GuidanceParams
from ddpm.plots import guidance
from ddpm.plots.style import MODEL, NOISE, TRUTH, save
from stages.common.files import read_arrays, read_json, reading, write_text
from stages.common.outputs import pending
from stages.common.params import load_params
from stages.common.paths import GUIDANCE_CSV, GUIDANCE_JSON, GUIDED, REPORTS
from stages.common.run import run
from stages.common.tables import read_table

# All figures are in git; DVC needs an output in its cache as well.
_FIGURES_OK = Path("data/figures.ok")
_CAPTION = (
    "grey: data of all classes; blue: 99 % region of the class; green: 50 % and 99 % of the tilted"
    " distribution; wrong: mean posterior probability of the other classes"
)
# Rows of the figure: prefix of the arrays, denoiser in the table, colour.
_ROWS = {
    "flow, exact denoisers": ("flow/exact", "exact", TRUTH),
    "flow, network": ("flow/network", "network", MODEL),
    "ddpm, network": ("ddpm/network", "network, ddpm", "#e08e2b"),
    "tilted itself": ("tilted/itself", None, NOISE),
}


def main() -> None:
    """Write samples over densities, nats over the scale, and the ratio of the densities."""
    chosen = load_params(kind=GuidanceParams).guidance
    columns = ("scale", "to_conditional", "to_tilted", "wrong_class", "tilted_wrong_class")
    sparse = ("from_tilted", "none_to_tilted", "to_conditional_se", "to_tilted_se")
    table = read_table(
        GUIDANCE_CSV, columns, stage="measure_guidance", text=("denoiser",), sparse=sparse
    )
    scales = list(dict.fromkeys(table["scale"]))
    names = ["side", "whole", "conditional", "chosen", "chosen_tilted", "chosen_ratio"]
    names += ["chosen_held", *(f"tilted/{scale:g}" for scale in scales)]
    names += [f"{prefix}/{scale:g}" for prefix, _, _ in _ROWS.values() for scale in scales]
    arrays = read_arrays(GUIDED, names, stage="measure_guidance")
    x, y = arrays["side"].T

    def densities(tilted: str) -> guidance.Densities:
        return guidance.Densities(x, y, arrays["whole"], arrays["conditional"], arrays[tilted])

    rows = {}
    for name, (prefix, denoiser, color) in _ROWS.items():
        panels = []
        for scale in scales:
            title = f"scale {scale:g}"
            if denoiser is None:
                row = table[table["scale"].eq(scale)].iloc[0]
                title += f"\nwrong {row['tilted_wrong_class']:.3f}"
            else:
                row = table[table["scale"].eq(scale) & table["denoiser"].eq(denoiser)].iloc[0]
                title += (
                    f"\nto conditional {_nats(row['to_conditional'])}, to tilted"
                    f" {_nats(row['to_tilted'])}\nwrong {row['wrong_class']:.3f}"
                )
            points = arrays[f"{prefix}/{scale:g}"]
            panels.append(guidance.Panel(title, points, color, densities(f"tilted/{scale:g}")))
        rows[name] = panels
    metrics = read_json(GUIDANCE_JSON, stage="measure_guidance")
    with reading(GUIDANCE_JSON, "measure_guidance"):
        nats = metrics["guidance"]
        title = (
            f"{chosen.kind}, scale {chosen.scale:g}, network: {nats['to_tilted']['value']:.2f} nats"
            " to tilted"
        )
    ratio = np.where(arrays["chosen_held"] > 0, arrays["chosen_ratio"], np.nan)
    figures = {
        "guidance": guidance.samples_over_densities(rows, _CAPTION),
        "scales": guidance.nats_over_scale(table),
        "ratio": guidance.density_ratio(x, y, ratio, title),
    }
    for name, figure in figures.items():
        with pending(REPORTS / f"{name}.png") as path:
            save(figure, path)
    write_text(_FIGURES_OK, "all figures are drawn\n")


def _nats(value: float) -> str:
    """Two digits, and no sign of a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


if __name__ == "__main__":
    run(main)
