"""Arrays and JSON that the stages exchange; what is unusable gives a one-line error.

Readers take the name of the stage that writes the file, for the message.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ddpm.core import files
from ddpm.core.errors import UserError
from stages.common.outputs import pending


def reading(path: Path, stage: str) -> AbstractContextManager[None]:
    """Turn any error while reading the output of a stage into a `UserError` of one line."""
    return files.reading(path, f"make it with `dvc repro {stage}`")


def write_text(path: Path, text: str) -> None:
    """Write text with UNIX line ends."""
    with pending(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON; named tuples become objects, and NaN is an error."""
    text = json.dumps(_plain(values), sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def _plain(value: object) -> object:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    with pending(path) as temporary:
        # Written by pathlib, because NumPy does not report a full disk.
        temporary.write_bytes(content.getvalue())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as .npz.

    `np.savez` opens each entry before its size is known, and then Python's versions write different
    headers.
    """
    with pending(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def read_points(path: Path, *, stage: str, n: int | None = None) -> np.ndarray:
    """Read finite points from a .npy file; `n` is the required number, or None for any."""
    with reading(path, stage), path.open("rb") as file:
        points: np.ndarray = np.load(file, allow_pickle=False)
        if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"it holds {points.dtype} {points.shape}, not float32 (n, 2)")
        if n is not None and len(points) != n:
            raise ValueError(f"it holds {len(points)} points, but params.yaml asks for {n}")
        if not np.isfinite(points).all():
            raise ValueError("it holds values that are not finite")
    return points


def labels_of(points: Path) -> Path:
    """The file with the labels of a file of points."""
    return points.with_name(f"{points.stem}_labels.npy")


def read_labels(points: Path, *, stage: str, n: int, classes: int) -> np.ndarray:
    """Read the labels, 0 ... classes - 1, of n points."""
    path = labels_of(points)
    with reading(path, stage), path.open("rb") as file:
        labels: np.ndarray = np.load(file, allow_pickle=False)
        if labels.dtype != np.int64 or labels.shape != (n,):
            raise ValueError(f"it holds {labels.dtype} {labels.shape}, not int64 ({n},)")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"it holds labels outside of 0 to {classes - 1}")
    return labels


def read_arrays(path: Path, names: Sequence[str], *, stage: str) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz file, of text or of finite numbers."""
    with reading(path, stage), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        arrays = {name: archive.get(name) for name in names}
        for name, array in arrays.items():
            if array is None:
                raise KeyError(name)
            if array.dtype.kind != "U" and not np.isfinite(array).all():
                raise ValueError(f"its {name} holds values that are not finite")
    return arrays


def read_json(path: Path, *, stage: str) -> dict[str, Any]:
    """Read a JSON object of text and finite numbers."""
    with reading(path, stage):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it does not hold a JSON object")
        # Python's reader accepts NaN and infinity.
        json.dumps(values, allow_nan=False)
    return values


def read_spacings(path: Path, *, stage: str) -> dict[str, dict[str, list[float]]]:
    """Read times by the name of an optimised spacing and the number of steps."""
    values = read_json(path, stage=stage)
    with reading(path, stage):
        return TypeAdapter(dict[str, dict[str, list[float]]]).validate_python(values)


def refuse_other_points(trained_on: str, model: Path, points: Path) -> None:
    """Refuse a model that was trained on other points, by their hash, than those in a file."""
    if files.sha256(points) != trained_on:
        raise UserError(
            f"{model} was trained on other points than those in {points}; make both again with"
            " `dvc repro train`"
        )


def refuse_other_model(made_with: object, model: Path, path: Path, *, stage: str) -> None:
    """Refuse a file whose recorded hash `made_with` is not that of the current model."""
    with reading(model, "train"):
        current = files.sha256(model)
    if made_with != current:
        raise UserError(
            f"{path} was made with another model than the one now in {model}; make it again with"
            f" `dvc repro {stage}`"
        )
