"""How a stage starts and ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm.core.errors import UserError
from ddpm.core.files import writing
from stages.common.files import read_json, write_json
from stages.common.lineage import Declaration, read_pipeline
from stages.common.outputs import completing
from stages.common.paths import CHECKPOINTS, TIMINGS


def run(main: Callable[[], None]) -> None:
    """Run a stage from the command line.

    Outputs appear at its end, if nothing that it used has changed; TIMINGS gets its seconds.
    """
    start = time.perf_counter()
    name = Path(sys.argv[0]).stem
    with reporting(), _only_one(name):
        # A stage that is not in dvc.yaml has nothing in dvc.lock that could be wrong.
        stage = read_pipeline().get(name, Declaration(name, [], [], []))
        before = stage.snapshot(imported=True)
        with completing(check=lambda: stage.refuse_change(before)):
            main()
        timings = {}
        with suppress(UserError):
            timings = read_json(TIMINGS, stage=name)
        with suppress(UserError), completing():
            write_json(TIMINGS, timings | {name: round(time.perf_counter() - start, 2)})


@contextmanager
def reporting() -> Iterator[None]:
    """End the process with one line and exit code 1 at a user's mistake."""
    try:
        yield
    except (UserError, MemoryError, RuntimeError) as error:
        message = str(error)
        if isinstance(error, MemoryError) or "allocate" in message:
            message = "there is too little memory for these sizes; lower them in params.yaml"
        elif not isinstance(error, UserError):
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def _only_one(stage: str) -> Iterator[None]:
    """Wait for another run of the stage in this folder, such as one whose dvc was killed."""
    with writing(CHECKPOINTS):
        CHECKPOINTS.mkdir(exist_ok=True)
    lock = FileLock(CHECKPOINTS / f".{stage}.lock")
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process runs stage {stage} in this folder; waiting for its end", flush=True)
        acquired = lock.acquire()
    with acquired:
        yield
