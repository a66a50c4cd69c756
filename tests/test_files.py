"""Arrays and JSON that the stages exchange."""

from pathlib import Path

import numpy as np
import pytest

from ddpm.core.errors import UserError
from ddpm.reference.estimates import Mean
from stages.common.files import (
    read_arrays,
    read_json,
    read_points,
    write_array,
    write_arrays,
    write_json,
)
from stages.common.outputs import completing

POINTS = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_points_come_back_as_they_were_written() -> None:
    path = Path("new/points.npy")
    with completing():
        write_array(path, POINTS)
    np.testing.assert_array_equal(read_points(path, stage="generate", n=4), POINTS)


def test_the_same_arrays_give_the_same_bytes() -> None:
    with completing():
        for name in ("a", "b"):
            write_arrays(Path(f"{name}.npz"), {"t": np.arange(3), "x": POINTS})
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTS.astype(np.float64), "it holds float64 "),
        (POINTS.reshape(-1), "not float32 "),
        (np.ones((4, 3), np.float32), "not float32 "),
        (np.full((4, 2), np.nan, np.float32), "not finite"),
        (np.ones((5, 2), np.float32), "5 points, but params.yaml asks for 4"),
        (np.array([{"a": 1}, {}], dtype=object), "cannot be used"),
    ],
)
def test_points_that_are_not_what_a_stage_wrote_are_refused(
    content: np.ndarray, message: str
) -> None:
    np.save("points.npy", content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as refused:
        read_points(Path("points.npy"), stage="generate", n=4)
    assert "dvc repro generate" in str(refused.value)


@pytest.mark.parametrize("length", [0, 3, 60, 130, 150])
def test_truncated_arrays_are_refused(length: int) -> None:
    np.save("a.npy", POINTS)
    np.savez("a.npz", x=POINTS)
    for path in (Path("a.npy"), Path("a.npz")):
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.npy cannot be used .*dvc repro generate"):
        read_points(Path("a.npy"), stage="generate")
    with pytest.raises(UserError, match=r"a\.npz cannot be used .*dvc repro sample"):
        read_arrays(Path("a.npz"), ["x"], stage="sample")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), "its x holds values that are not finite"),
        (np.array([{"a": 1}], dtype=object), "cannot be used"),
    ],
)
def test_arrays_of_anything_but_finite_numbers_and_text_are_refused(
    array: np.ndarray, message: str
) -> None:
    np.savez("a.npz", x=array)
    with pytest.raises(UserError, match=message):
        read_arrays(Path("a.npz"), ["x"], stage="sample")


def test_what_is_missing_is_named() -> None:
    np.savez("a.npz", x=POINTS)
    with pytest.raises(UserError, match="it has no 'y"):
        read_arrays(Path("a.npz"), ["x", "y"], stage="sample")
    for read in (read_points, read_json):
        with pytest.raises(UserError, match=r"gone is missing; make it with `dvc repro train`"):
            read(Path("gone"), stage="train")


def test_json_comes_back_sorted_with_named_tuples_as_objects() -> None:
    with completing():
        write_json(Path("a.json"), {"kl": Mean(0.5, 0.1), "a": {"d": 0.1, "c": 2}})
    text = Path("a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "a": {\n    "c": 2,\n    "d": 0.1\n  },\n  "kl": {')
    assert text.endswith("}\n")
    expected = {"a": {"c": 2, "d": 0.1}, "kl": {"value": 0.5, "se": 0.1}}
    assert read_json(Path("a.json"), stage="x") == expected


def test_json_never_holds_what_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), completing():
        write_json(Path("a.json"), {"kl": float("nan")})
    for text in ("[1]", '{"kl": NaN}', '{"kl": 1e999}', "{"):
        Path("a.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"a\.json cannot be used"):
            read_json(Path("a.json"), stage="x")


def test_a_message_is_one_line() -> None:
    assert str(UserError("a\nb; make it with\n  `dvc repro`")) == "a b; make it with `dvc repro`"
