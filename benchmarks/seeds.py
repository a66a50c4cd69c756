"""How much every metric varies over seeds, and whether another result is the same within that.

python -m benchmarks.seeds                # `make seeds`: run ten seeds, write benchmarks/seeds.json
python -m benchmarks.seeds --judge LOCK   # what `make verify` says where the bits are others
python -m benchmarks.seeds --stale        # whether the file belongs to dvc.lock

A seed is a run of the pipeline with data, model, noise and true sets of its own. The file names the
metrics of the dvc.lock that it belongs to, by their hashes there: code may change as long as the
results do not. In what a verdict says, its words count and its numbers do not.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.copies import copy_code, write_changed_params
from ddpm.core.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.outputs import completing
from stages.common.yaml_loader import load_yaml

_SEEDS = range(10)
_WITHIN = 5
_FILE = Path("benchmarks/seeds.json")
_LOCK = Path("dvc.lock")
# Those that lead to a metric.
_STAGES = (
    *("check", "generate", "diffuse", "train", "optimise_spacings", "sample", "measure_model"),
    *("measure_samples", "attribute_error"),
)
_METRICS = ("reports/attribution.json", "reports/forward.json", "reports/metrics.json")
Leaf = float | str | bool


def leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Leaf]]:
    """The values of nested metrics, each with its dotted name."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def metrics_in(folder: Path) -> dict[str, Leaf]:
    """All metrics of a finished pipeline, by file and dotted name."""
    return {
        name: value
        for path in _METRICS
        for name, value in leaves(read_json(folder / path, stage="measure_samples"), f"{path}: ")
    }


def outputs_of(lock: Path) -> dict[str, str]:
    """Hash of every output in a dvc.lock."""
    values = load_yaml(lock.read_text(encoding="utf-8"))
    return {out["path"]: out["md5"] for stage in values["stages"].values() for out in stage["outs"]}


def belongs_to(lock: Path) -> dict[str, str]:
    """What benchmarks/seeds.json names of a lock: the hashes of its metrics."""
    outputs = outputs_of(lock)
    return {path: outputs[path] for path in _METRICS}


def run_seed(seed: int) -> dict[str, Leaf]:
    """Run the stages in a copy, with this seed, on the CPU; its metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_code(folder)
        write_changed_params(folder, {"seed": seed})
        for stage in _STAGES:
            subprocess.run(
                [sys.executable, "-m", f"stages.{stage}"],
                cwd=folder,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.DEVNULL,
                check=True,
            )
        return metrics_in(folder)


def measure() -> None:
    metrics = {}
    for seed in tqdm(_SEEDS, desc="seeds", unit="seed", disable=None):
        metrics[seed] = run_seed(seed)
    if metrics[0] != metrics_in(Path()):
        raise UserError("seed 0 gave other metrics than are in reports/; run `make repro` first")
    names = list(metrics[0])
    values = {name: [metrics[seed][name] for seed in _SEEDS] for name in names}
    with completing():
        write_json(_FILE, {"lock": belongs_to(_LOCK), "seeds": list(_SEEDS), "values": values})
    for name in names:
        print(f"{name}: {describe(values[name])}")


def describe(values: list[Leaf]) -> str:
    """Mean and standard deviation over seeds; or the words that were seen."""
    if is_number(values[0]):
        return f"{statistics.mean(values):.6g}, sd {statistics.stdev(values):.2g}"  # type: ignore[type-var]
    return " or ".join(sorted({json.dumps(words(value)) for value in values}))


def is_number(value: Leaf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def words(value: Leaf) -> Leaf:
    """A verdict without its numbers."""
    return re.sub(r"[-+]?\d\S*", "#", value) if isinstance(value, str) else value


def seen(value: Leaf, values: list[Leaf]) -> bool:
    """Whether a value is one that another seed might have given."""
    if not is_number(value) or not all(map(is_number, values)):
        return words(value) in map(words, values)
    mean, sd = statistics.mean(values), statistics.stdev(values)  # type: ignore[type-var]
    # What is the same for all seeds may differ in its last digits.
    return abs(value - mean) <= max(_WITHIN * sd, 1e-9 * abs(mean))  # type: ignore[operator]


def read_seeds(lock: Path) -> dict[str, list[Leaf]]:
    """The values of every metric over seeds.

    Raises:
        UserError: If the file is missing, or the metrics of the lock are not those that it names.
    """
    if not _FILE.exists():
        raise UserError(f"{_FILE} is missing; make it with `make seeds`")
    seeds = read_json(_FILE, stage="check")
    if seeds.get("lock") != belongs_to(lock):
        raise UserError(f"{_FILE} belongs to other metrics than {lock.name}; run `make seeds`")
    values: dict[str, list[Leaf]] = seeds["values"]
    return values


def judge(committed: Path) -> int:
    """Compare a forced run in the current directory with the lock as it was committed.

    Returns:
        0 for the same bits, 1 for another result, 2 for other bits with the same result.
    """
    before, now = outputs_of(committed), outputs_of(_LOCK)
    different = sorted(
        path for path in before.keys() | now.keys() if before.get(path) != now.get(path)
    )
    if not different:
        return 0
    print(f"verify: {len(different)} of {len(before)} outputs have other bits:")
    for path in different:
        print(f"  {path}")
    values, metrics = read_seeds(committed), metrics_in(Path())
    astray = 0
    print(f"verify: metrics, and whether each is within {_WITHIN} sd of its mean over seeds:")
    for name in sorted(values.keys() | metrics.keys()):
        known = name in values and name in metrics
        within = known and seen(metrics[name], values[name])
        astray += not within
        print(
            f"  {'yes' if within else 'NO '} {name}: {json.dumps(metrics.get(name))}"
            f" ({describe(values[name]) if name in values else 'not in ' + str(_FILE)})"
        )
    return 1 if astray else 2


def main(arguments: list[str]) -> None:
    try:
        if arguments[:1] == ["--judge"]:
            raise SystemExit(judge(Path(arguments[1])))
        if arguments == ["--stale"]:
            read_seeds(_LOCK)
        else:
            measure()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
