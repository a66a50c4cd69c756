"""How long an experiment takes alone, and how long each of two takes when both run at once.

Two on two cores should each take about twice the time of one. Threads that spin on each other would
make it ten to thirty times. Run as `make side-by-side`: rounds alternate, and medians are quoted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.copies import copy_code, write_changed_params

_ROUNDS = 3
_STAGES = ("generate", "train", "optimise_spacings", "sample", "diffuse")
# A tenth of the training; all else as shipped.
_SHORTER = {"train.steps": 600}


def experiment(folder: Path) -> subprocess.Popen[bytes]:
    """Start the stages that make and sample a model, one after the other, in a copy."""
    copy_code(folder)
    write_changed_params(folder, _SHORTER)
    line = " && ".join(f"{sys.executable} -m stages.{stage}" for stage in _STAGES)
    return subprocess.Popen(["/bin/sh", "-c", line], cwd=folder, stdout=subprocess.DEVNULL)


def seconds(at_once: int) -> float:
    """Wall time until all of so many experiments, started together, have ended."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, str(k)) for k in range(at_once)]
        for folder in folders:
            folder.mkdir()
        start = time.perf_counter()
        running = [experiment(folder) for folder in folders]
        if any(process.wait() for process in running):
            raise SystemExit("an experiment failed")
        return time.perf_counter() - start


def main() -> None:
    alone, together = [], []
    for k in range(_ROUNDS):
        alone.append(seconds(1))
        together.append(seconds(2))
        print(f"round {k + 1}: alone {alone[-1]:.1f} s, two at once {together[-1]:.1f} s each")
    ratio = statistics.median(b / a for a, b in zip(alone, together, strict=True))
    print(f"{os.cpu_count()} cores: two at once take {ratio:.2f} times as long each (median)")


if __name__ == "__main__":
    main()
