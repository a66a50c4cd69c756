"""Tables as CSV files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddpm.core.errors import UserError
from stages.common.outputs import completing
from stages.common.tables import read_table, write_table


def write(path: Path, columns: dict[str, list[object]]) -> None:
    with completing():
        write_table(path, columns)


def test_a_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, {"step": [1, 2], "loss": [0.5, 1 / 3], "name": ["a", "NA"]})
    assert path.read_bytes() == b"step,loss,name\n1,0.5,a\n2,0.333333333,NA\n"
    table = read_table(path, ["step", "loss"], stage="train", text=["name"])
    expected = {"step": [1, 2], "loss": [0.5, 0.333333333], "name": ["a", "NA"]}
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected))


def test_floats_are_read_exactly_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    generator = np.random.default_rng(0)
    exponents = generator.integers(-300, 300, 20_000)
    values = generator.standard_normal(20_000) * 10.0**exponents
    path.write_text("x\n" + "".join(f"{value!r}\n" for value in values.tolist()))
    assert (read_table(path, ["x"], stage="x")["x"] == values).all()
    rounded = [float(f"{value:.9g}") for value in values.tolist()]
    write(path, {"x": values.tolist()})
    assert read_table(path, ["x"], stage="x")["x"].tolist() == rounded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,loss\n1,2\n3", "its last line is cut off"),
        ("step\n1\n", "it has no 'loss'"),
        ("step,loss\n", "it has no rows"),
        ("step,loss\n1,inf\n", "not finite"),
        ("step,loss\n1,\n", "not finite"),
        ("step,loss\n1,abc\n", "could not convert string to float"),
        ("", "cannot be used"),
        ("step,loss\n1,2,3\n4,5,6\n\0\n", "cannot be used"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_table(path, ["step", "loss"], stage="train")
    assert "dvc repro train" in str(refused.value)
