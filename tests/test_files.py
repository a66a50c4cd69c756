import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.errors import UserError
from ddpm.files import (
    number,
    read_arrays,
    read_csv,
    read_json,
    read_points,
    read_rows,
    read_spacings,
    replacing,
    sha256,
    write_array,
    write_arrays,
    write_csv,
    write_json,
)
from ddpm.metrics import Mean

POINTS = np.arange(8, dtype=np.float32).reshape(4, 2)


def test_points_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "points.npy"
    write_array(path, POINTS)
    np.testing.assert_array_equal(read_points(path, stage="generate", n=4), POINTS)


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "points.npy"
    write_array(path, POINTS)
    before = path.read_bytes()

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written: "):
        write_array(tmp_path / "file" / "points.npy", POINTS)


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_arrays(tmp_path / f"{name}.npz", {"t": np.arange(3), "x": POINTS})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTS.astype(np.float64), "float64 of shape"),
        (POINTS.reshape(-1), "not float32 of shape"),
        (np.ones((4, 3), np.float32), "not float32 of shape"),
        (np.full((4, 2), np.nan, np.float32), "not finite"),
        (np.ones((5, 2), np.float32), "5 points, but params.yaml asks for 4"),
        (np.array([{"a": 1}, {}], dtype=object), "cannot be used"),
    ],
)
def test_points_that_are_not_what_a_stage_wrote_are_refused(
    tmp_path: Path, content: np.ndarray, message: str
) -> None:
    path = tmp_path / "points.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as refused:
        read_points(path, stage="generate", n=4)
    assert "dvc repro generate" in str(refused.value)


@pytest.mark.parametrize("kept", [0, 3, 60, 130, 150])
def test_truncated_points_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "points.npy"
    write_array(path, POINTS)
    assert len(path.read_bytes()) > kept
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"points\.npy cannot be used .*dvc repro generate"):
        read_points(path, stage="generate")


def test_a_header_larger_than_its_file_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "points.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 2)}
        )
        file.write(b"\0" * 64)
    with pytest.raises(UserError, match="cannot be used"):
        read_points(path, stage="generate")


@pytest.mark.parametrize("kept", [0, 20, 200])
def test_truncated_arrays_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"x": POINTS})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"arrays\.npz cannot be used .*dvc repro sample"):
        read_arrays(path, ["x"], stage="sample")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x": POINTS})
    with pytest.raises(UserError, match="has no 'y"):
        read_arrays(tmp_path / "a.npz", ["x", "y"], stage="sample")
    write_csv(tmp_path / "a.csv", {"step": [1, 2]})
    with pytest.raises(UserError, match="has no 'loss'"):
        read_csv(tmp_path / "a.csv", ["step", "loss"], stage="train")
    for read in (read_points, read_json, sha256):
        with pytest.raises(UserError, match=r"gone is missing; make it with `dvc repro train`"):
            read(tmp_path / "gone", stage="train")


def test_tables_and_json_come_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", {"step": [1, 2], "loss": [0.5, 1 / 3]})
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "step,loss\n1,0.5\n2,0.333333333\n"
    read = read_csv(tmp_path / "a.csv", ["step", "loss"], stage="train")
    assert read == {"step": [1.0, 2.0], "loss": [0.5, 0.333333333]}
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 0.1, "c": 2}})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": {\n    "c": 2,\n    "d": 0.1\n  },\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json", stage="x") == {"b": 1, "a": {"d": 0.1, "c": 2}}


def test_named_tuples_become_objects_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"kl": Mean(0.5, 0.1), "deeper": {"t": Mean(1.0, 2.0)}})
    assert read_json(tmp_path / "a.json", stage="x") == {
        "kl": {"value": 0.5, "se": 0.1},
        "deeper": {"t": {"value": 1.0, "se": 2.0}},
    }


def test_json_never_holds_what_is_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"kl": float("nan")})
    (tmp_path / "a.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="does not hold a JSON object"):
        read_json(tmp_path / "a.json", stage="x")


def test_what_is_larger_than_any_stage_writes_is_not_read(tmp_path: Path) -> None:
    for name, read in (("a.json", read_json), ("a.csv", read_rows), ("a.npy", read_points)):
        with (tmp_path / name).open("wb") as file:
            file.write(b"\x93NUMPY\x01\x00")
            # Without a block on disk.
            file.truncate(2**40)
        with pytest.raises(UserError, match="bytes are more than any stage writes"):
            read(tmp_path / name, stage="x")


@pytest.mark.parametrize("shape", ["(10**13, 2)", "(300, 2", "(3L, 2)", "-" * 7000, "(" * 9000])
def test_a_header_that_is_none_is_told_in_one_line(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(UserError, match="cannot be used"):
        read_points(tmp_path / "a.npy", stage="x")
    with pytest.raises(UserError, match="cannot be used"):
        read_arrays(tmp_path / "a.npz", ["x"], stage="x")


def test_a_member_that_claims_more_than_it_has_allocates_nothing(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**30, 2)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    tracemalloc.start()
    with pytest.raises(UserError, match="speaks of 8589934592 bytes, but there are 0"):
        read_arrays(tmp_path / "a.npz", ["x"], stage="x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


# Of the central directory: version needed, encrypted, patched, strongly encrypted, compressed.
@pytest.mark.parametrize(("at", "value"), [(6, 255), (8, 1), (8, 32), (8, 64), (10, 8), (10, 99)])
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {"x": POINTS})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + at] = value
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be used"):
        read_arrays(path, ["x"], stage="x")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), "its x holds values that are not finite"),
        (np.array([1j]), "its x is complex128, not numbers or text"),
        (np.array(["2020"], "M8[Y]"), "not numbers or text"),
    ],
)
def test_arrays_of_anything_but_numbers_and_text_are_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    write_arrays(tmp_path / "a.npz", {"x": array})
    with pytest.raises(UserError, match=message):
        read_arrays(tmp_path / "a.npz", ["x"], stage="x")


@pytest.mark.parametrize("times", ['["2", "1"]', "[true, false]", '"21"', "[1, 2]", "[2, null]"])
def test_times_that_are_not_falling_numbers_are_refused(tmp_path: Path, times: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"optimised_truth": {{"2": {times}}}}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json cannot be used .*dvc repro optimise"):
        read_spacings(tmp_path / "a.json", stage="optimise")


@pytest.mark.parametrize("value", ["nan", "1", True, None, [1.0], float("inf"), 10**400])
def test_what_is_no_number_is_not_taken_for_one(value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        number(value)


def test_a_message_is_one_line_that_can_be_printed_however_long_what_it_quotes() -> None:
    said = str(UserError("a\nb\x1b[2J" + "x" * 10_000 + "; make it with `dvc repro train`"))
    assert said.isprintable()
    assert len(said) < 600
    assert said.startswith("a b [2Jxx")
    assert said.endswith("make it with `dvc repro train`")
