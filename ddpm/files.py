"""What the stages exchange: nothing is half-written, and nothing that is read is trusted."""

import csv
import hashlib
import io
import itertools
import json
import math
import os
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from jaxtyping import Float32, Num

from ddpm.errors import UserError

Points = Float32[np.ndarray, "n 2"]
Times = Num[np.ndarray, " k"]
Frames = Float32[np.ndarray, "k n 2"]

# Bytes, of which no stage writes more. Text takes some twenty times as much in memory.
_MOST_ARRAYS, _MOST_TEXT = 2**30, 2**26
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class _Held(NamedTuple):
    """Outputs that wait for one another (path to temporary path), and what is to follow them."""

    outputs: dict[Path, Path]
    afterwards: list[Callable[[], None]]


# The blocks of `together` that this process is in.
_held: list[_Held] = []


@contextmanager
def replacing(path: Path, *, at_once: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` once the block has succeeded.

    Args:
        path: The file to write.
        at_once: Rename it now even inside `together`.

    Raises:
        UserError: If the disk refuses (full, read-only, ...); what was at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    waits = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            # Or a power cut could leave a name without its content.
            os.fsync(file.fileno())
        waits = bool(_held) and not at_once
        if waits:
            _held[-1].outputs[path] = temporary
        else:
            temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        if not waits:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def together(ready: Callable[[], None]) -> Iterator[None]:
    """Rename all files that the block writes at its end, once `ready` has raised nothing.

    Raises:
        UserError: If the disk refuses.
    """
    held = _Held({}, [])
    _held.append(held)
    try:
        yield
        ready()
        for path, temporary in held.outputs.items():
            try:
                temporary.replace(path)
            except OSError as error:
                raise _refused(path, error) from None
        for follow in held.afterwards:
            follow()
    finally:
        _held.pop()
        for temporary in held.outputs.values():
            with suppress(OSError):
                temporary.unlink()


def afterwards(follow: Callable[[], None]) -> None:
    """Do something once all that was written is in its place: at the end of `together`, or now."""
    if _held:
        _held[-1].afterwards.append(follow)
    else:
        follow()


def sweep(path: Path) -> None:
    """Remove what a killed process left of `path`; nobody else may be writing it now."""
    for temporary in path.parent.glob(f".{path.stem}.*{path.suffix}"):
        temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write text with UNIX line ends."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON with a trailing newline; NaN and infinity are errors.

    Named tuples become objects.
    """
    text = json.dumps(_plain(values), sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def _plain(value: object) -> object:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write named columns of equal length; floats with nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.9g}" if isinstance(value, float) else value for value in row])
    write_text(path, text.getvalue())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array as .npy."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    with replacing(path) as temporary:
        # NumPy itself, given a path, is silent about a disk that is full.
        temporary.write_bytes(content.getvalue())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as .npz."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # its stub confuses allow_pickle


def read_points(path: Path, *, stage: str, n: int | None = None) -> Points:
    """Read points from a .npy file.

    Args:
        path: The file.
        stage: The stage that writes it, for the message.
        n: How many points it must hold, if that is known.

    Raises:
        UserError: If it is missing, truncated, or anything but finite float32 of shape (n, 2).
    """
    with reading(path, stage), path.open("rb") as file:
        points = _array(file, path.stat().st_size)
        if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"{points.dtype} of shape {points.shape}, not float32 of shape (n, 2)")
        if not len(points):
            raise ValueError("it holds no points")
        if n is not None and len(points) != n:
            raise ValueError(f"{len(points)} points, but params.yaml asks for {n}")
        if not np.isfinite(points).all():
            raise ValueError("it holds values that are not finite")
    return points


def read_arrays(path: Path, names: Sequence[str], *, stage: str) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz file.

    Raises:
        UserError: If the file is missing or truncated, lacks one of the arrays, or one holds
            anything but text and finite real numbers.
    """
    arrays = {}
    with reading(path, stage), ZipFile(path) as archive:
        held = set(archive.namelist())
        for name in names:
            if f"{name}.npy" not in held:
                raise KeyError(name)
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != ZIP_STORED:
                raise ValueError("its arrays are compressed, and may be of any size")
            with archive.open(member) as file:
                array = arrays[name] = _array(file, member.file_size)
            if array.dtype.kind not in "iufU":
                raise ValueError(f"its {name} is {array.dtype}, not numbers or text")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"its {name} holds values that are not finite")
    return arrays


def _array(file: io.BufferedIOBase | IO[bytes], size: int) -> np.ndarray:
    """The array of a .npy file of so many bytes: exactly those that its header speaks of."""
    if size > _MOST_ARRAYS:
        raise ValueError(f"{size} bytes are more than any stage writes")
    try:
        with warnings.catch_warnings():
            # Of a header that is only nearly one.
            warnings.simplefilter("error")
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except MemoryError:
        # The parser's stack, not the machine's memory.
        raise ValueError("its header is nested too deeply") from None
    told, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if told != left:
        raise ValueError(f"its header speaks of {told} bytes, but there are {left}")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def read_trajectories(path: Path, *, stage: str) -> tuple[Times, Frames, Frames]:
    """Read trajectories: t falling from noise to 0, x_t and x0_hat at each.

    Raises:
        UserError: If the file is missing or truncated, or holds anything else.
    """
    with reading(path, stage):
        kept = read_arrays(path, ("t", "x", "x0_hat"), stage=stage)
        t, x, x0_hat = kept["t"], kept["x"], kept["x0_hat"]
        if t.ndim != 1 or t.dtype.kind not in "if" or len(t) < 2 or (np.diff(t) >= 0).any():
            raise ValueError("its t is not a list of falling times")
        for points in (x, x0_hat):
            if points.dtype != np.float32 or points.ndim != 3 or points.shape[::2] != (len(t), 2):
                given = f"{points.dtype} of shape {points.shape}"
                raise ValueError(f"{given}, not float32 of shape ({len(t)}, m, 2)")
            if x.shape != points.shape:
                raise ValueError("its x and x0_hat differ in size")
    return t, x, x0_hat


def read_rows(path: Path, *, stage: str) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Raises:
        UserError: If the file is missing, cut off, or holds no rows.
    """
    with reading(path, stage):
        text = _text(path)
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows:
            raise ValueError("it holds no rows")
        return rows


def read_csv(path: Path, names: Sequence[str], *, stage: str) -> dict[str, list[float]]:
    """Read the named columns of a CSV file as numbers.

    Raises:
        UserError: If the file is missing, or a column is missing or holds something else.
    """
    rows = read_rows(path, stage=stage)
    with reading(path, stage):
        columns = {name: [float(row[name]) for row in rows] for name in names}
        if not all(map(math.isfinite, itertools.chain(*columns.values()))):
            raise ValueError("it holds values that are not finite")
        return columns


def read_json(path: Path, *, stage: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file is missing or does not hold one.
    """
    with reading(path, stage):
        values = json.loads(_text(path), parse_float=_finite)
        if not isinstance(values, dict):
            raise ValueError("it does not hold a JSON object")
        # Python's reader allows NaN and Infinity, which no stage writes.
        json.dumps(values, allow_nan=False)
        return values


def read_spacings(path: Path, *, stage: str) -> dict[str, dict[str, list[float]]]:
    """Read optimised spacings: falling times by the name of the spacing and the number of steps.

    Raises:
        UserError: If the file is missing or holds anything else.
    """
    values = read_json(path, stage=stage)
    with reading(path, stage):
        for by_steps in values.values():
            for steps, times in by_steps.items():
                falls = all(t > s for t, s in itertools.pairwise((*map(number, times), 0)))
                if len(times) != int(steps) or not falls:
                    raise ValueError(f"its times for {steps} steps are not as many that fall")
    return values


def number(value: object) -> float:
    """A value of JSON that must be a finite number.

    Raises:
        ValueError: If it is not: neither text nor true is one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{reprlib.repr(value)} is not a finite number")
    return float(value)


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > _MOST_TEXT:
        raise ValueError(f"{size} bytes are more than any stage writes")
    return path.read_text(encoding="utf-8")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text}, which is not finite")
    return value


@contextmanager
def reading(path: Path, stage: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading what `stage` wrote to `path` into one line.

    Raises:
        UserError: In place of the errors that a missing, truncated or foreign file causes.
    """
    remedy = f"make it with `dvc repro {stage}`"
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    except KeyError as error:
        raise UserError(f"{path} has no {error}; {remedy}") from None
    except Exception as error:
        # Readers of damaged files raise what they like, tokenize.TokenError for one.
        brief = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be used ({brief}); {remedy}") from None


def sha256(path: Path, *, stage: str) -> str:
    """Hash of a file's bytes, in hexadecimal.

    Raises:
        UserError: If the file cannot be read.
    """
    with reading(path, stage), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
