"""The data set that params.yaml names, or the file of points."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm.core.errors import UserError
from ddpm.core.files import reading
from ddpm.core.params import TrainingParams
from ddpm.data.datasets import DATASETS, Dataset
from ddpm.data.point_file import SOURCES, PointFile
from stages.common.params import select

_MIN_POINTS = 10
# Largest error of rounding to float32, as a part of the standard deviation.
_MAX_ROUNDING = 1e-3
# More different values than this are measurements and no labels.
_MAX_CLASSES = 100


def known_dataset(params: TrainingParams) -> Dataset:
    """Build the data set.

    Raises:
        UserError: If its name or its settings are not allowed, or it is a file.
    """
    if params.dataset == "file":
        raise UserError(
            "dataset is file but here everything is measured against a known distribution; use"
            f" pipelines/points for a file, or change dataset to one of {', '.join(DATASETS)}"
        )
    return select(params, "dataset", DATASETS)


def source_of(params: TrainingParams) -> Dataset | PointFile:
    """Build the data set, or find the labels of the file.

    Raises:
        UserError: If its name or its settings are not allowed, or the file is no table of points.
    """
    source = select(params, "dataset", SOURCES)
    if isinstance(source, PointFile):
        return source.model_copy(update={"classes": read_point_file(Path(source.path)).classes})
    return source


class PointTable(NamedTuple):
    """The points of a file, the number of the label of each, and the names of the labels."""

    points: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def read_point_file(path: Path) -> PointTable:
    """Read points from a .npy or .csv file: x, y, and a label if there is a third column.

    A .npy file has the shape (n, 2), or (n, 3) with whole numbers as labels. A .csv file may begin
    with a line of names, and its labels may be any text.

    Raises:
        UserError: If it is not such a table.
    """
    with reading(path, "correct it, or change datasets.file.path in params.yaml"):
        if path.suffix not in {".npy", ".csv"}:
            raise ValueError("it should be a .npy or a .csv file")
        points, labels = _read_npy(path) if path.suffix == ".npy" else _read_csv(path)
        if len(points) < _MIN_POINTS:
            raise ValueError(f"it has {len(points)} points but should have at least {_MIN_POINTS}")
        # The networks compute with float32.
        with np.errstate(over="ignore"):
            rounded = points.astype(np.float32)
        unusable = ~np.isfinite(rounded).all(1)
        if unusable.any():
            raise ValueError(f"its point {unusable.argmax() + 1} is not finite")
        if not np.abs(rounded - points).max() < _MAX_ROUNDING * points.std(0).max():
            raise ValueError(
                "its points are all the same, or so close together that float32 cannot tell them"
                " apart: subtract their mean"
            )
        if labels is None:
            return PointTable(points, np.zeros(len(points), dtype=np.int64), ())
        names, numbers = np.unique(labels, return_inverse=True)
        if len(names) > _MAX_CLASSES:
            raise ValueError(
                f"its third column has {len(names)} different values but should hold labels, at"
                f" most {_MAX_CLASSES}"
            )
        return PointTable(points, numbers.astype(np.int64), tuple(map(str, names)))


# Points, and the label of each if there are any.
Columns = tuple[np.ndarray, np.ndarray | None]


def _read_npy(path: Path) -> Columns:
    array: np.ndarray = np.load(path, allow_pickle=False)
    if array.ndim != 2 or array.shape[1] not in {2, 3} or array.dtype.kind not in "iuf":
        raise ValueError(
            f"it holds {array.dtype} {array.shape} but should hold numbers (n, 2) or (n, 3)"
        )
    points = array[:, :2].astype(np.float64)
    if array.shape[1] == 2:
        return points, None
    if not (np.equal(array[:, 2], np.round(array[:, 2])) & (np.abs(array[:, 2]) < 2**31)).all():
        raise ValueError("its third column should hold labels, which are whole numbers here")
    return points, array[:, 2].astype(np.int64)


def _read_csv(path: Path) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, skipinitialspace=True)
        stripped = ((lines.line_num, [cell.strip() for cell in row]) for row in lines)
        rows = [(line, row) for line, row in stripped if any(row)]
    if rows and not any(map(_is_number, rows[0][1][:2])):
        _, names = rows.pop(0)
        if "" in names:
            raise ValueError("its first line names one column '': leave out an index of the rows")
    columns = len(rows[0][1]) if rows else 2
    for line, row in rows:
        complete = len(row) == columns and columns in {2, 3} and "" not in row
        if not complete or not all(map(_is_number, row[:2])):
            raise ValueError(
                f"its line {line} is {','.join(row)!r} but should have two numbers, and perhaps a"
                " label, as all lines"
            )
    points = np.array([[float(value) for value in row[:2]] for _, row in rows]).reshape(-1, 2)
    return points, np.array([row[2] for _, row in rows]) if columns == 3 else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
