"""Print the table of samplers of docs/samplers.md, from reports/samplers.csv: `make samplers`."""

import math
import sys

from ddpm.core.errors import UserError
from ddpm.studies.sampler_comparison import DENSITY_COLUMNS
from stages.common.paths import SAMPLERS_CSV
from stages.common.tables import read_table


def table() -> None:
    """Print the committed comparison as Markdown."""
    names = ["sampler", "spacing", "evaluations", "denoiser"]
    header = ["reverse KL", "minus the flow's, cut", "folded", "log density", "strays"]
    print(f"| {' | '.join([*names, *header, 'energy distance'])} |")
    print("|---" * (len(names) + len(header) + 1) + "|")
    rows = read_table(
        SAMPLERS_CSV,
        ("evaluations", "energy_distance", "energy_distance_se", "log_density", "strays"),
        stage="compare_samplers",
        text=("sampler", "spacing", "denoiser"),
        sparse=DENSITY_COLUMNS,
    )
    for _, row in rows.iterrows():
        cell = " | ".join(str(row[name]) for name in names)
        kl = difference = folded = ""
        if not math.isnan(row["reverse_kl"]):
            bound = "≥ " if row["folded"] > 0 else ""
            kl = bound + with_error(row["reverse_kl"], row["reverse_kl_se"])
            difference = bound + with_error(
                *row[["reverse_kl_cut_difference", "reverse_kl_cut_difference_se"]]
            )
            folded = f"{100 * row['folded']:.1f} %"
        energy = f"{row['energy_distance']:.5f} ± {row['energy_distance_se']:.5f}"
        log_density = f"{row['log_density']:.2f} ± {row['log_density_se']:.2f}"
        strays = f"{100 * row['strays']:.2f} %"
        print(f"| {cell} | {kl} | {difference} | {folded} | {log_density} | {strays} | {energy} |")


def with_error(value: float, se: float) -> str:
    """A value and its standard error, to two digits of the error."""
    digits = max(0, 1 - math.floor(math.log10(se))) if se > 0 else 1
    return f"{value:.{digits}f} ± {se:.{digits}f}"


if __name__ == "__main__":
    try:
        table()
    except UserError as error:
        sys.exit(f"error: {error}")
