"""Kill the pipeline twenty times, and see it end with the same bits every time.

A clone at small sizes is run once and committed. Then, twenty times, all outputs and DVC's cache
are removed, `dvc repro` is started and killed with SIGKILL at a random moment: ten times with its
whole process group, ten times alone, so that the stage it had started lives on. Then
what `make repro` runs is repeated until it succeeds and the orphan has ended, as a user would. Run
as `make kills`: about fifteen minutes.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.copies import SIZES, write_changed_params

_KILLS = 20
_PATIENCE = 600
_FOLDERS = ("data", "models", "reports")
# The shipped sizes train for longer than a short pipeline does; here too, to be hit now and then.
_TRAINING_STEPS = 8000
# What may be told of a recovery, by what it says.
_NOTES = {
    "resuming training after step": "training resumed",
    "another process runs stage": "waited for the orphan",
    "was cut off": "cut-off file moved aside",
}


def repro(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make repro` runs."""
    return subprocess.run(
        ["/bin/sh", "-c", "python -m stages.preflight && dvc repro"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A User", "-c", "user.email=user@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def outputs(folder: Path) -> dict[str, str]:
    """Hash of every file in the folders of outputs, and of the lock; times are left out."""
    files = [path for name in _FOLDERS for path in (folder / name).glob("*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([*files, folder / "dvc.lock"])
        if path.name != "timings.json"
    }


def forget(folder: Path) -> None:
    """Remove all outputs and DVC's cache: every stage must run again."""
    for name in (*_FOLDERS, "checkpoints", ".dvc/cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    # Not an output, but in their folder.
    git(folder, "checkout", "--quiet", "data/README.md")


def stage_of(processes: list[psutil.Process]) -> str:
    """Which stage is running."""
    for process in processes:
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        for word in words:
            if word.startswith("stages."):
                return word.removeprefix("stages.")
    return "between stages"


def kill(folder: Path, moment: float, *, group: bool) -> tuple[str, list[psutil.Process]] | None:
    """Start a run and kill it; the stage that was running, and its processes that may live on.

    Nothing, if it ended before.
    """
    started = subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(moment)
    if started.poll() is not None:
        return None
    below = psutil.Process(started.pid).children(recursive=True)
    stage = stage_of(below)
    if group:
        os.killpg(started.pid, signal.SIGKILL)
    else:
        started.kill()
    started.wait()
    return stage, below


def recover(folder: Path, orphans: list[psutil.Process]) -> tuple[int, str]:
    """Repeat `dvc repro` until it succeeds and no orphan lives; how often, and its last words."""
    deadline = time.monotonic() + _PATIENCE
    attempts, output = 0, ""
    while True:
        ended = repro(folder)
        attempts, output = attempts + 1, output + ended.stdout
        alive = any(orphan.is_running() for orphan in orphans)
        if (ended.returncode == 0 and not alive) or time.monotonic() > deadline:
            return attempts, output
        time.sleep(0.5)


def main() -> None:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        git(Path.cwd(), "clone", "--quiet", ".", str(folder))
        write_changed_params(folder, SIZES | {"train.steps": _TRAINING_STEPS})
        start = time.perf_counter()
        first = repro(folder)
        if first.returncode:
            sys.exit(f"error: the pipeline does not run: {first.stdout}")
        seconds = time.perf_counter() - start
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "Small sizes")
        committed = outputs(folder)
        print(f"uninterrupted: {seconds:.0f} s, {len(committed)} files")
        same = 0
        for k in range(_KILLS):
            group = k % 2 == 0
            hit = None
            while hit is None:
                forget(folder)
                moment = chance.uniform(0, seconds)
                hit = kill(folder, moment, group=group)
            stage, orphans = hit
            attempts, output = recover(folder, orphans)
            now = outputs(folder)
            different = sorted(
                path
                for path in committed.keys() | now.keys()
                if committed.get(path) != now.get(path)
            )
            different += git(folder, "status", "--porcelain").splitlines()
            notes = [note for sign, note in _NOTES.items() if sign in output]
            print(
                f"kill {k + 1:2d} of {'the process group' if group else 'dvc alone':17} after"
                f" {moment:5.1f} s in {stage}: {', '.join([f'{attempts} repro', *notes])},"
                f" {'DIFFERS: ' + ' '.join(different) if different else 'same bits'}",
                flush=True,
            )
            if different:
                print(output)
                print(git(folder, "diff", "HEAD", "--", "dvc.lock"))
                git(folder, "checkout", "HEAD", "--", ".")
            same += not different
        print(f"{same} of {_KILLS} ended with the committed bits")
    sys.exit(same != _KILLS)


if __name__ == "__main__":
    main()
