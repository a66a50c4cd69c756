"""Outputs appear together at the end of a stage, or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.core.errors import UserError
from ddpm.core.files import replacing
from stages.common.files import write_text
from stages.common.outputs import completing


def test_outputs_appear_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "new" / "second.txt"
    with completing():
        write_text(first, "before")

    def write(check: Callable[[], None]) -> None:
        with completing(check):
            write_text(first, "after")
            write_text(second, "after")
            assert first.read_text() == "before"
            assert not second.exists()

    def refuse() -> None:
        raise UserError("something was changed")

    with pytest.raises(UserError, match="something"):
        write(refuse)
    assert first.read_text() == "before"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [first]
    write(lambda: None)
    assert (first.read_text(), second.read_text()) == ("after", "after")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [first, second]


def test_what_a_killed_stage_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".new.a.txt").write_text("half")
    with completing():
        write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_an_interrupt_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file/a\.txt cannot be written: "), completing():
        write_text(tmp_path / "file" / "a.txt", "text")
