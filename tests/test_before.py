"""What `make repro` looks at before dvc."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML

LOCK = (ROOT / "dvc.lock").read_text(encoding="utf-8")
SHORT_LOCK = "\n".join(LOCK.splitlines()[:120])


def before(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.before"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("content", ["seed: [1\n", "seed: 1\n", "", "seed: 1\nseed: 2\n"])
def test_what_dvc_would_say_at_length_is_said_before_it_in_one_line(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "params.yaml").write_text(content, encoding="utf-8")
    ended = before(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def half_written() -> str:
    """A part of the lock at which dvc would stop."""
    for end in range(len(SHORT_LOCK) - 1, 0, -1):
        try:
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(SHORT_LOCK[:end]))
        except Exception:
            return SHORT_LOCK[:end]
    raise AssertionError


def test_what_is_whole_is_left_alone_and_what_is_half_written_is_set_aside(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    lock, rwlock = tmp_path / "dvc.lock", tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    lock.write_text(LOCK, encoding="utf-8")
    rwlock.write_text("{}")
    assert (before(tmp_path).returncode, lock.read_text(encoding="utf-8")) == (0, LOCK)
    assert rwlock.exists()

    lock.write_text(half_written(), encoding="utf-8")
    rwlock.write_text('{"read": {')
    ended = before(tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count(" was half-written and is now ") == 2
    assert not lock.exists()
    assert not rwlock.exists()
    assert (tmp_path / "dvc.lock.broken").read_text(encoding="utf-8") == half_written()
