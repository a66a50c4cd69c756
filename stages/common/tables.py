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
    path: Path,
    columns: Sequence[str],
    *,
    stage: str,
    text: Sequence[str] = (),
    sparse: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a table, of which the named columns are checked.

    Args:
        path: The file.
        columns: Columns of finite numbers.
        stage: Stage that writes it, for the message if it is damaged.
        text: Columns of text.
        sparse: Columns of finite numbers in which cells may be empty.
    """
    with reading(path, stage):
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut off")
        # Since pandas 3.1 floats are read exactly without `float_precision="round_trip"`.
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        for column in (*columns, *text, *sparse):
            table[column]
        filled, numbers = table[[*columns, *text]], table[[*columns, *sparse]].astype(float)
        if table.empty:
            raise ValueError("it has no rows")
        if filled.isna().any(axis=None) or np.isinf(numbers).any(axis=None):
            raise ValueError("it holds values that are not finite")
    return table
