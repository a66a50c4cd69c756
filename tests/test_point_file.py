"""Points of one's own: what is read, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from ddpm.core.errors import UserError
from stages.common.dataset import read_point_file

POINTS = [[0.5, -1.0], [2.0, 1e-3], [-3.25, 4.0]] * 4
TEXT = "0.5,-1\n2,0.001\n-3.25,4\n" * 4
LABELS = [1, 0, 1] * 4


def written(folder: Path, content: str | list[list[float]], name: str = "") -> Path:
    path = folder / (name or ("points.csv" if isinstance(content, str) else "points.npy"))
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        np.save(path, np.array(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        POINTS,
        TEXT,
        "x,y\n" + TEXT.strip(),
        "\ufeffx , y\r\n" + TEXT.replace("\n", "\r\n").replace(",", ", ") + "  \r\n",
    ],
)
def test_points_without_labels(content: str | list[list[float]], tmp_path: Path) -> None:
    points, labels, classes = read_point_file(written(tmp_path, content))
    assert points.tolist() == POINTS
    assert points.dtype == np.float64
    assert labels.tolist() == [0] * 12
    assert classes == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([[*point, 3 + 4 * k] for point, k in zip(POINTS, LABELS, strict=True)], ("3", "7")),
        (
            "x,y,kind\n" + "0.5,-1,red fox \n2,0.001,hen\n-3.25,4,red fox\n" * 4,
            ("hen", "red fox"),
        ),
        ("0.5,-1,7\n2,0.001,3\n-3.25,4,7\n" * 4, ("3", "7")),
    ],
)
def test_a_third_column_holds_labels(
    content: str | list[list[float]], expected: tuple[str, ...], tmp_path: Path
) -> None:
    points, labels, classes = read_point_file(written(tmp_path, content))
    assert points.tolist() == POINTS
    assert labels.tolist() == LABELS
    assert labels.dtype == np.int64
    assert classes == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[1.0]], r"it holds float64 \(1, 1\) but should hold numbers \(n, 2\) or \(n, 3\)"),
        ([[1.0, 2.0]], "it has 1 points but should have at least 10"),
        ([*POINTS, [3.0, float("nan")]], "its point 13 is not finite"),
        ([*POINTS, [1e39, 0.0]], "its point 13 is not finite"),
        ([[1.0, 2.0, 0.5], [3.0, 4.0, 1.0]], "its third column should hold labels"),
        ([[1.0, 2.0, float("inf")], [3.0, 4.0, 1.0]], "its third column should hold labels"),
        ([[1.0, 2.0]] * 20, "its points are all the same, or so close together that float32"),
        ([[5e6 + x, y] for x, y in POINTS], "its points are all the same, or so close together"),
        ("", "it has 0 points but should have at least 10"),
        ("x,y\n", "it has 0 points but should have at least 10"),
        (",x,y\n0,1,2\n1,3,4\n", "its first line names one column '': leave out an index"),
        ("1,2\n3\n", "its line 2 is '3' but should have two numbers"),
        ("x,y\n1,2\n3,four\n", "its line 3 is '3,four' but should have two numbers"),
        ("1,2,3,4\n", "its line 1 is '1,2,3,4' but should have two numbers"),
        ("1,2,a\n3,4,\n", "its line 2 is '3,4,' but should have two numbers"),
        ("1;2\n3;4\n", "its line 2 is '3;4' but should have two numbers"),
        ("1,inf\n" + TEXT, "its point 1 is not finite"),
        ("\n".join(f"1,{k},{k / 7}" for k in range(101)), "101 different values but should hold"),
    ],
)
def test_what_is_no_table_of_points_gets_one_line(
    content: str | list[list[float]], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as refused:
        read_point_file(path)
    line = str(refused.value)
    assert line.startswith(f"{path} cannot be used")
    assert line.endswith("; correct it, or change datasets.file.path in params.yaml")
    assert "\n" not in line


def test_files_of_other_kinds_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it should be a \.npy or a \.csv file"):
        read_point_file(written(tmp_path, "1,2\n3,4\n", "points.txt"))
    with pytest.raises(UserError, match="is missing; correct it"):
        read_point_file(tmp_path / "none.csv")
    for content in (b"\xff\xfe\x00", b"no array"):
        for name in ("broken.npy", "broken.csv"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match="cannot be used") as refused:
                read_point_file(tmp_path / name)
            assert "\n" not in str(refused.value)
