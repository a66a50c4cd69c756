"""Print a table of samplers from reports/samplers.csv: `make samplers`."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ddpm.core.errors import UserError
from ddpm.reference.estimates import Mean
from ddpm.studies.sampler_comparison import DENSITY_COLUMNS
from stages.common.paths import SAMPLERS_CSV
from stages.common.tables import read_table

# What determines a row, and its values with standard errors.
KEY = ("sampler", "spacing", "evaluations", "denoiser")
ESTIMATES = ("reverse_kl", "reverse_kl_cut_difference", "log_density", "energy_distance")


class Row(NamedTuple):
    """A row of a table of samplers.

    Attributes:
        key: Values of KEY.
        estimates: Values with standard errors, by the names of ESTIMATES.
        folded: Fraction of points where the map folds, which makes divergences lower bounds; NaN
            if the density is not known.
        strays: Fraction of strays.
    """

    key: Sequence[object]
    estimates: Mapping[str, Mean]
    folded: float
    strays: float


def markdown(rows: Iterable[Row]) -> str:
    """Arrange rows as a table."""
    measured = ("reverse KL", "minus the flow's, cut", "folded", "log density", "strays")
    lines = [f"| {' | '.join([*KEY, *measured, 'energy distance'])} |", "|---" * 10 + "|"]
    for key, estimates, folded, strays in rows:
        kl, difference, log_density, energy = (with_error(*estimates[name]) for name in ESTIMATES)
        bound = "≥ " if folded > 0 else ""
        nats = [f"{bound}{kl}", f"{bound}{difference}", percent(folded)]
        if math.isnan(folded):
            nats = [""] * 3
        cells = (*key, *nats, log_density, percent(strays), energy)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def table() -> str:
    """The comparison in reports/samplers.csv, as Markdown."""
    columns = [f"{name}{part}" for name in ESTIMATES for part in ("", "_se")]
    dense = [name for name in columns if name not in DENSITY_COLUMNS]
    rows = read_table(
        SAMPLERS_CSV,
        ("evaluations", "strays", *dense),
        stage="compare_samplers",
        text=("sampler", "spacing", "denoiser"),
        sparse=DENSITY_COLUMNS,
    )
    return markdown(
        Row(
            [row[name] for name in KEY],
            {name: Mean(row[name], row[f"{name}_se"]) for name in ESTIMATES},
            row["folded"],
            row["strays"],
        )
        for _, row in rows.iterrows()
    )


def percent(fraction: float) -> str:
    """A fraction in per cent."""
    return f"{100 * fraction:.2f} %"


def with_error(value: float, se: float) -> str:
    """A value and its standard error, to two digits of the error."""
    digits = max(0, 1 - math.floor(math.log10(se))) if se > 0 else 1
    return f"{value:.{digits}f} ± {se:.{digits}f}"


if __name__ == "__main__":
    try:
        print(table())
    except UserError as error:
        sys.exit(f"error: {error}")
