"""What each part of the training recipe contributes: train without it, on three seeds.

python -m benchmarks.ablation           # `make ablation`: measure what is missing
python -m benchmarks.ablation --table   # print the table of docs/training.md
python -m benchmarks.ablation --trial   # two small variants into checkpoints/, in seconds

A cell is a change of the parameters and a seed, which has data, initial weights, batches and true
points of its own. Its model comes from the pipeline's own stages. Cells that are in
benchmarks/ablation.json are not measured again. The variants of a seed are measured on the same
true points, so that their differences are paired.
"""

import itertools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.resumable import Results, divergence, run_study, train_seed, training_settings
from ddpm.core.params import Params
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS

_FILE = Path("benchmarks/ablation.json")


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        variants: Changes of dotted parameters, by the name of the variant; the first is none.
        seeds: Seeds of each variant.
        common: Changes of all variants.
        points: True points behind each KL.
        tolerance: Tolerance of the solver of the probability flow.
        file: The results.
    """

    variants: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    common: Mapping[str, Any]
    points: int
    tolerance: float
    file: Path


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
FULL = Study(VARIANTS, range(3), {}, 20_000, 1e-5, _FILE)
TRIAL = Study(
    dict(itertools.islice(VARIANTS.items(), 2)),
    range(2),
    {"data.n_train": 1000, "train.steps": 200},
    200,
    1e-3,
    CHECKPOINTS / _FILE.name,
)


def measure(study: Study) -> None:
    """Measure the cells that are not in the file of results."""
    settings = training_settings(load_params(), set()) | {
        "variants": study.variants,
        "common": study.common,
        "points": study.points,
        "tolerance": study.tolerance,
    }
    results = Results.resume(study.file, settings)
    cells = [
        cell
        for cell in itertools.product(study.variants, study.seeds)
        if _name(*cell) not in results.cells
    ]
    for variant, seed in tqdm(cells, desc="ablation", unit="model", disable=None):
        changes = {**study.common, **study.variants[variant], "seed": seed, "device": "cpu"}
        values = changed(present_params(), **changes)
        with tempfile.TemporaryDirectory() as folder:
            model = train_seed(Params.model_validate(values), Path(folder))
        kl = divergence(model, study.points, study.tolerance)
        results.add(_name(variant, seed), {"kl": kl._asdict()})
        print(f"{_name(variant, seed)}: KL {kl.value:.4f}", flush=True)


def table(study: Study, results: Results) -> str:
    """KL of the variants that have all seeds, and its difference from the first, as Markdown."""
    header = f"| recipe | KL over {len(study.seeds)} seeds | minus that as shipped |"
    lines = [header, "|---|---|---|"]
    shipped: list[float] = []
    for variant in study.variants:
        cells = [results.cells.get(_name(variant, seed)) for seed in study.seeds]
        kls = [cell["kl"]["value"] for cell in cells if cell is not None]
        if len(kls) < len(cells):
            continue
        shipped = shipped or kls
        differences = [kl - other for kl, other in zip(kls, shipped, strict=True)]
        mean, se = statistics.mean(differences), statistics.stdev(differences) / len(kls) ** 0.5
        difference = f"{mean:+.4f} ± {se:.4f}" if kls is not shipped else ""
        shown = f"{statistics.mean(kls):.4f}, sd {statistics.stdev(kls):.4f}"
        lines.append(f"| {variant} | {shown} | {difference} |")
    return "\n".join(lines)


def present(study: Study) -> None:
    """Print the table."""
    print(table(study, Results.read(study.file)))


def _name(variant: str, seed: int) -> str:
    return f"{variant}, seed {seed}"


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
