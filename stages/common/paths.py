"""Where the stages read and write, relative to the folder of the pipeline."""

from pathlib import Path

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
GUIDE = Path("models/guide.safetensors")
GUIDED = Path("data/guided.npz")
DENSITY = Path("data/density.npz")
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
GUIDANCE_CSV = REPORTS / "guidance.csv"
GUIDANCE_JSON = REPORTS / "guidance.json"
TIMINGS = REPORTS / "timings.json"
# Checkpoints of interrupted training, and the locks of running stages; git and DVC ignore them.
CHECKPOINTS = Path("checkpoints")
