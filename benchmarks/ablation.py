"""What each part of the training recipe contributes: train without it, on three seeds.

python -m benchmarks.ablation           # `make ablation`: measure what is missing
python -m benchmarks.ablation --table   # print the table of docs/training.md

A cell is a change of the parameters and a seed, which has data, initial weights, batches and true
points of its own. Its model comes from the pipeline's own stages; KL(truth || model) is measured on
20,000 true points. Cells that are in benchmarks/ablation.json are not measured again.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.few_evaluations import train_seed
from benchmarks.resumable import Results, divergence, training_settings
from ddpm.core.errors import UserError
from ddpm.core.params import Params
from stages.common.params import load_params

_SEEDS, _POINTS, _TOLERANCE = range(3), 20_000, 1e-4
_FILE = Path("benchmarks/ablation.json")
VARIANTS: dict[str, Mapping[str, Any]] = {
    "as shipped": {},
    "targets not averaged": {"loss.neighbours": 1},
    "10,000 points": {"data.n_train": 10_000},
    "10,000 points, targets not averaged": {"data.n_train": 10_000, "loss.neighbours": 1},
    "t uniform": {"loss.time_power": 0},
    "whole t": {"loss.integer_times": True},
    "32 Fourier features of scale 0.3, 16 of time": {
        "networks.mlp.fourier_features": 32,
        "networks.mlp.fourier_scale": 0.3,
        "networks.mlp.time_features": 16,
    },
    "6,000 steps": {"train.steps": 6000},
    "learning rate 0.004": {"train.lr": 0.004},
    "no weight decay": {"train.weight_decay": 0},
}


def measure(params: Params) -> None:
    """Measure the cells that are not in the file of results."""
    results = Results.resume(_FILE, training_settings(params, set()))
    cells = [(name, seed) for name in VARIANTS for seed in _SEEDS]
    missing = [cell for cell in cells if f"{cell[0]}, seed {cell[1]}" not in results.cells]
    for name, seed in tqdm(missing, desc="ablation", unit="model", disable=None):
        values = changed(present_params(), **VARIANTS[name], seed=seed, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            model = train_seed(Params.model_validate(values), Path(folder))
        kl = divergence(model, _POINTS, _TOLERANCE).value
        results.add(f"{name}, seed {seed}", {"kl": kl})
        print(f"{name}, seed {seed}: KL {kl:.4f}", flush=True)


def table(results: Results) -> str:
    """Mean and standard deviation of the KL over the seeds, as Markdown."""
    lines = ["| recipe | KL over three seeds | times as shipped |", "|---|---|---|"]
    shipped = None
    for name in VARIANTS:
        kls = [results.cells[f"{name}, seed {seed}"]["kl"] for seed in _SEEDS]
        mean = statistics.mean(kls)
        shipped = shipped or mean
        lines.append(
            f"| {name} | {mean:.4f}, sd {statistics.stdev(kls):.4f} | {mean / shipped:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    try:
        if arguments == ["--table"]:
            print(table(Results.read(_FILE)))
        else:
            measure(load_params())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
