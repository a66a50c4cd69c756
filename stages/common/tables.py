"""Tables as CSV files: floats have nine significant digits, and are read exactly as written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.common.files import reading
from stages.common.outputs import pending


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write named columns of equal length."""
    with pending(path) as temporary:
        table = pd.DataFrame(columns)
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_table(
    path: Path, columns: Sequence[str], *, stage: str, text: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a table with at least the given columns, of finite numbers but for those of text."""
    with reading(path, stage):
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        # Since pandas 3.1 floats are read exactly without `float_precision="round_trip"`.
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        for column in columns:
            table[column]
        if table.empty:
            raise ValueError("it has no rows")
        numbers = table.drop(columns=list(text)).astype(float)
        if table.isna().any(axis=None) or not np.isfinite(numbers).all(axis=None):
            raise ValueError("it holds values that are not finite")
    return table
