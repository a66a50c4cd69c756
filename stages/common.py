"""What every stage shares: where things are, and how a stage starts and ends."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from ddpm.errors import UserError
from ddpm.files import read_json, write_json

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
_TIMINGS = REPORTS / "timings.json"


def run(main: Callable[[], None]) -> None:
    """Run a stage: a user's mistake ends it with one line and exit code 1.

    The seconds that it took go to reports/timings.json, which git and DVC ignore.
    """
    start = time.perf_counter()
    try:
        main()
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
    _note_time(Path(sys.argv[0]).stem, time.perf_counter() - start)


def _note_time(stage: str, seconds: float) -> None:
    try:
        timings = read_json(_TIMINGS, stage=stage)
    except UserError:
        timings = {}
    write_json(_TIMINGS, timings | {stage: round(seconds, 2)})
