"""The README's table of results, as `make metrics` prints it.

It is made of reports/metrics.json and benchmarks/seeds.json. The columns are the value of this run
with its standard error, the mean and standard deviation over ten seeds (left out if the file of
seeds belongs to other results), and the value of a perfect model.
"""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.seeds import Leaf, metrics_in, read_seeds
from ddpm.core.errors import UserError
from stages.common.yaml_loader import load_yaml

_PREFIX = "reports/metrics.json: "


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        metric: Dotted name in reports/metrics.json.
        perfect: The value of a perfect model, or the name of the entry that holds it.
        digits: Decimal places.
        meaning: One sentence.
    """

    metric: str
    perfect: str
    digits: int
    meaning: str


ROWS = (
    Row(
        "likelihood.kl",
        "0",
        4,
        "KL(truth \\|\\| model) in nats: how much too unlikely true points are.",
    ),
    Row(
        "likelihood.exact_kl",
        "0",
        5,
        "The same with the exact denoiser as the model: the error of the measurement itself.",
    ),
    Row("denoising.excess_nats", "0", 4, "Nats of the variational bound that the model loses."),
    Row(
        "samples.energy_distance",
        "0",
        5,
        "Distance of 10,000 samples from 10,000 true points: too blunt at this size.",
    ),
    Row(
        "samples.curve_rms",
        "truth",
        4,
        "Distance of the samples from the curve: where it is smaller, the spiral is too thin.",
    ),
    Row("memory.gap", "0", 3, "Nats by which training points are likelier than test points."),
)


def table(folder: Path) -> str:
    """The table of a finished pipeline, as Markdown."""
    metrics = metrics_in(folder)
    try:
        seeds: dict[str, list[Leaf]] = read_seeds(folder / "dvc.lock")
    except UserError:
        seeds = {}
    seed = load_yaml((folder / "params.yaml").read_text(encoding="utf-8"))["seed"]
    lines = [f"| metric | seed {seed} | ten seeds | perfect | meaning |", "|---|---|---|---|---|"]
    for row in ROWS:
        name = f"{_PREFIX}{row.metric}"
        value, se = (metrics.get(f"{name}.{part}") for part in ("value", "se"))
        shown = f"{value:.{row.digits}f}" + ("" if se is None else f" ± {se:.{row.digits}f}")
        values = seeds.get(f"{name}.value")
        over_seeds = "not measured"
        if values:
            mean, sd = statistics.mean(values), statistics.stdev(values)  # type: ignore[type-var]
            over_seeds = f"{mean:.{row.digits}f}, sd {sd:.{row.digits}f}"
        perfect = metrics.get(f"{name}.{row.perfect}", row.perfect)
        if not isinstance(perfect, str):
            perfect = f"{perfect:.{row.digits}f}"
        lines.append(f"| `{row.metric}` | {shown} | {over_seeds} | {perfect} | {row.meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(table(Path()))
    except UserError as error:
        sys.exit(f"error: {error}")
