"""What `make repro` checks before it starts dvc."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from stages.common.yaml_loader import load_yaml

LOCK = (ROOT / "dvc.lock").read_text(encoding="utf-8")
SHORT_LOCK = "\n".join(LOCK.splitlines()[:40])


def preflight(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.preflight"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("content", ["seed: [1\n", "seed: 1\n", "", "seed: 1\nseed: 2\n"])
def test_an_error_that_dvc_would_report_at_length_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "params.yaml").write_text(content, encoding="utf-8")
    ended = preflight(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def cut_off() -> str:
    """The beginning of a lock, at which dvc would stop."""
    for end in range(len(SHORT_LOCK) - 1, 0, -1):
        try:
            COMPILED_LOCKFILE_SCHEMA(load_yaml(SHORT_LOCK[:end]))
        except Exception:
            return SHORT_LOCK[:end]
    raise AssertionError


def test_only_a_file_that_is_cut_off_is_moved_aside(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    lock, rwlock = tmp_path / "dvc.lock", tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    lock.write_text(LOCK, encoding="utf-8")
    rwlock.write_text("{}")
    assert (preflight(tmp_path).returncode, lock.read_text(encoding="utf-8")) == (0, LOCK)
    assert rwlock.exists()

    lock.write_text(cut_off(), encoding="utf-8")
    rwlock.write_text('{"read": {')
    ended = preflight(tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count(" was cut off and is now ") == 2
    assert not lock.exists()
    assert not rwlock.exists()
    assert (tmp_path / "dvc.lock.broken").read_text(encoding="utf-8") == cut_off()
