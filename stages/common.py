"""What every stage shares: where things are, and how a stage starts and ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm.errors import UserError
from ddpm.files import read_json, sweep, together, write_json
from ddpm.provenance import declared
from stages import CODE

PARAMS_OK = Path("data/params.ok")
TRAIN = Path("data/train.npy")
TEST = Path("data/test.npy")
SAMPLES = Path("data/samples.npy")
TRAJECTORIES = Path("data/trajectories.npz")
TRUTH = Path("data/truth.npy")
MEASURED = Path("data/measured.json")
FIELDS = Path("data/fields.npz")
OPTIMAL = Path("data/optimal.npz")
ARMS = Path("data/arms.npz")
COMPARED = Path("data/compared.npz")
SPACINGS_FILE = Path("data/spacings.json")
MODEL = Path("models/denoiser.safetensors")
REPORTS = Path("reports")
FORWARD = REPORTS / "forward.json"
METRICS = REPORTS / "metrics.json"
SCHEDULE_CSV = REPORTS / "schedule.csv"
TRAINING_CSV = REPORTS / "training.csv"
SAMPLES_CSV = REPORTS / "samples.csv"
DENOISING_CSV = REPORTS / "denoising.csv"
MEMORY_CSV = REPORTS / "memory.csv"
SAMPLERS_CSV = REPORTS / "samplers.csv"
ATTRIBUTION = REPORTS / "attribution.json"
# Work that a crash may interrupt, and locks; git and DVC ignore it.
CHECKPOINTS = Path("checkpoints")
_TIMINGS = REPORTS / "timings.json"


def run(main: Callable[[], None]) -> None:
    """Run a stage: a user's mistake ends it with one line and exit code 1.

    Its outputs take their places all at its end, and only if what it used is still what it was at
    its start. The seconds that it took go to reports/timings.json, which git and DVC ignore.
    """
    start = time.perf_counter()
    stage = declared(Path(sys.argv[0]).stem)
    with reporting(), _alone(stage.stage):
        used = stage.used(CODE)
        for path in stage.outs:
            sweep(path)
        with together(ready=lambda: stage.refuse_change(used)):
            main()
    _note_time(stage.stage, time.perf_counter() - start)


@contextmanager
def reporting() -> Iterator[None]:
    """End the process with one line and exit code 1 at a user's mistake."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate" in str(error)):
            raise
        print(
            "error: these sizes take more memory than there is; lower train.batch, model.width,"
            " sample.block, sample.trajectories or sample.frames in params.yaml",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def _alone(stage: str) -> Iterator[None]:
    """Wait for another run of the stage in this folder, such as one whose dvc was killed."""
    lock = FileLock(CHECKPOINTS / f".{stage}.lock")
    try:
        CHECKPOINTS.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process runs stage {stage} in this folder; waiting for its end", flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{CHECKPOINTS} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _note_time(stage: str, seconds: float) -> None:
    try:
        timings = read_json(_TIMINGS, stage=stage)
    except UserError:
        timings = {}
    with suppress(UserError):
        write_json(_TIMINGS, timings | {stage: round(seconds, 2)})
