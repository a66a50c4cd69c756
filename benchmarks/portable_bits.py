"""Do the same bits come out of any number of threads, any vendor's processor, any vector width?

A short pipeline, all stages in one process, is run in a temporary folder under each of a table of
conditions: numbers of threads; variables in the user's environment that ask for other arithmetic,
which `stages` must overrule; and with `--emulate` processors of both vendors and of several
generations, as qemu-x86_64 emulates them. One line each compares the hashes of all files that
dvc.yaml lists as outputs with those of the first condition. With `--cost`: the time that one
training step takes as shipped and with less pinned.

Run as `python -m benchmarks.portable_bits [--emulate [MODEL ...] | --cost]`; exit code 1 if a bit
differs. Two minutes as it stands, and four to five more for each emulated processor.
"""

import argparse
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.copies import SIZES, write_changed_params

_ROOT = Path(__file__).parents[1]

# Beyond benchmarks/copies.py: the shipped network but for two of its three blocks, and the shipped
# batch, for the shipped shapes of the matrix products; enough points for every kind of work to be
# cut into blocks that threads share; and few steps, as an emulated processor does some fifty
# million operations a second.
_SIZES: dict[str, Any] = {
    "data.n_train": 300,
    "data.n_test": 100,
    "diffusion.T": 22,
    "networks.mlp.width": 64,
    "networks.mlp.blocks": 1,
    "networks.mlp.fourier_features": 16,
    "networks.mlp.time_features": 8,
    "train.steps": 12,
    "train.batch": 512,
    "train.log_every": 6,
    "sample.n": 1100,  # metrics take 1,024 rows a block
    "sample.steps": 8,
    "sample.block": 150,
    "measure_samples.directions": 40,  # 16 a block
    "measure_model.n_denoising": 260,  # 250 a block
    "measure_model.n_likelihood": 504,  # the flow takes 500 a block
    "measure_model.tolerance": 1e-2,
    "measure_model.density_grid": 8,
}
# Sizes that no parameter sets: of the pictures, and of points whose memory is tested.
_CONSTANTS = {
    "diffuse": {"_FRAMES": 8},
    "measure_model": {
        "_MEMORY_POINTS": 50,
        "_SCORE_GRID": 32,
    },  # the exact density takes 1,000 a block
}
_THREADS = (1, 2, 3, 4, 8)
_MODELS = ("Haswell", "Skylake-Client", "EPYC", "EPYC-Rome")
_EMULATOR = "qemu-x86_64"
_NO_AVX2 = 42

# For `--cost`: what each child is given in place of what `stages` pins.
_COST_STEPS, _COST_ROUNDS = 600, 3
_ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_OPENBLAS = {"OPENBLAS_CORETYPE": "Haswell"}
_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2"}
_COSTS: dict[str, dict[str, str]] = {
    "as shipped": {**_ONE, **_AVX2, **_OPENBLAS, "MKL_CBWR": "COMPATIBLE"},
    "OpenBLAS chooses by processor": {**_ONE, **_AVX2, "MKL_CBWR": "COMPATIBLE"},
    "nothing pinned but one thread": _ONE,
    "nothing pinned, a thread for each core": {},
}


@dataclass(frozen=True)
class Condition:
    """Where the pipeline runs: so many threads, a user's variables, an emulated processor."""

    threads: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None

    def __str__(self) -> str:
        return " ".join(
            [
                f"{self.threads} thread{'s' * (self.threads > 1)}",
                *(f"{name}={value}" for name, value in self.environment.items()),
                *([f"emulated {self.model}"] if self.model else []),
            ]
        )


_VARIABLES = (
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ATEN_CPU_CAPABILITY": "avx512"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"MKL_CBWR": "AVX2"},
    {"MKL_CBWR": "AVX512"},
    {"OPENBLAS_CORETYPE": "SkylakeX"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"NPY_DISABLE_CPU_FEATURES": "X86_V3"},
)
NATIVE = (
    *(Condition(threads) for threads in _THREADS),
    *(Condition(2, variables) for variables in _VARIABLES),
)
# What a condition does not set is not set.
_TRIED = {*_ONE, "OPENBLAS_NUM_THREADS", *itertools.chain.from_iterable(_VARIABLES)}


class SkippedError(Exception):
    """A condition that cannot be had here, and why."""


def hashes(condition: Condition) -> dict[str, str]:
    """Run the short pipeline under a condition; the hash of each file by its path.

    Raises:
        SkippedError: If the emulator does not know the processor, or that lacks AVX2.
    """
    # Not at the top: it imports NumPy, and what a child of `--cost` pins must come before.
    from stages.common.lineage import read_pipeline

    stages = read_pipeline()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_changed_params(folder, SIZES | _SIZES)
        command = ["--child", str(condition.threads), *stages]
        threads = {name: str(condition.threads) for name in _ONE}
        ended = _child(
            command, folder, threads | dict(condition.environment), _emulator(condition.model)
        )
        if ended.returncode == _NO_AVX2:
            raise SkippedError(f"{_EMULATOR} -cpu {condition.model} has no AVX2")
        if ended.returncode:
            raise SystemExit(f"error: {condition} ended with {ended.returncode}: {_tail(ended)}")
        return {
            str(path): hashlib.sha256((folder / path).read_bytes()).hexdigest()
            for path in sorted(path for stage in stages.values() for path in stage.outs)
        }


def _child(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], prefix: list[str]
) -> subprocess.CompletedProcess[str]:
    """This module in a process of its own, with only such variables as are given."""
    inherited = {name: value for name, value in os.environ.items() if name not in _TRIED}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "benchmarks.portable_bits", *arguments],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(_ROOT)} | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def _tail(ended: subprocess.CompletedProcess[str]) -> str:
    """Its last words; the emulator warns of each feature that it lacks, for each thread."""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(_EMULATOR)]
    return "\n".join(lines[-20:])


def _emulator(model: str | None) -> list[str]:
    if model is None:
        return []
    if shutil.which(_EMULATOR) is None:
        raise SystemExit(f"error: {_EMULATOR} is missing; on Debian it is in package qemu-user")
    if model not in _known_models():
        raise SkippedError(f"this {_EMULATOR} knows no {model}; see {_EMULATOR} -cpu help")
    return [_EMULATOR, "-cpu", model]


@functools.cache
def _known_models() -> set[str]:
    # It lists them and exits with 1.
    command = [_EMULATOR, "-cpu", "help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return {line.split()[1] for line in listed.stdout.splitlines() if line.startswith("x86 ")}


def run_stages(threads: int, stages: Sequence[str]) -> None:
    """In the child: all stages in one process, as an emulator takes long to import torch."""
    importlib.import_module("stages")
    import numpy as np

    if platform.machine() == "x86_64" and not np._core._multiarray_umath.__cpu_features__["AVX2"]:
        sys.exit(_NO_AVX2)
    compute = importlib.import_module("ddpm.core.compute")
    compute.cores = lambda: threads
    outputs = importlib.import_module("stages.common.outputs")
    for stage in stages:
        start = time.perf_counter()
        module = importlib.import_module(f"stages.{stage}")
        for name, size in _CONSTANTS.get(stage, {}).items():
            assert hasattr(module, name), f"stages/{stage}.py has no {name} any more"
            setattr(module, name, size)
        with outputs.completing():
            module.main()
        print(f"{stage} {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)


def compare(conditions: Sequence[Condition]) -> bool:
    """Print a line for each condition; whether all gave the same files as the first."""
    first: dict[str, str] = {}
    same = tried = 0
    for condition in conditions:
        start = time.perf_counter()
        try:
            now = hashes(condition)
        except SkippedError as reason:
            print(f"{condition!s:46}  skipped: {reason}", flush=True)
            continue
        seconds = time.perf_counter() - start
        first = first or now
        different = [path for path in first if now[path] != first[path]]
        verdict = f"DIFFERS: {' '.join(different)}" if different else "same"
        print(f"{condition!s:46} {seconds:6.1f} s  {_combined(now)}  {verdict}", flush=True)
        tried, same = tried + 1, same + (not different)
    print(f"{same} of {tried} conditions gave the same {len(first)} files")
    return same == tried


def _combined(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def machine() -> str:
    """What the bits came from."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy")]
    return ", ".join(
        [
            f"{_processor()} ({os.cpu_count()} cores)",
            " ".join(platform.libc_ver()) or "an unknown C library",
            f"Python {platform.python_version()}",
            *versions,
        ]
    )


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def train_steps(pinned: Mapping[str, str]) -> None:
    """In the child: print the milliseconds, passed and computed, of a training step as shipped.

    `stages` pinned the arithmetic when this package was imported, but torch has not yet read it.
    """
    assert not {"numpy", "torch"} & sys.modules.keys()
    for name in _TRIED:
        os.environ.pop(name, None)
    os.environ.update(pinned)

    import torch

    from ddpm.data.datasets import DATASETS
    from ddpm.data.scaling import Scaling
    from ddpm.networks.registry import NETWORKS
    from ddpm.training.loop import train
    from stages.common.params import load_params, select
    from stages.common.task import task_of

    params = load_params()
    task = task_of(params)
    generator = torch.Generator().manual_seed(0)
    dataset = select(params, "dataset", DATASETS)
    points = dataset.sample(params.data.n_train, generator=generator).float()
    points = Scaling.from_points(points).to_model(points)
    for steps in (_COST_STEPS // 10, _COST_STEPS):
        settings = select(params, "network", NETWORKS)
        network = settings.create(task.schedule.T, generator=generator)
        settings = params.train.model_copy(update={"steps": steps})
        start, computed = time.perf_counter(), time.process_time()
        train(network, task, points, points, settings=settings, seed=0)
        passed = (time.perf_counter() - start, time.process_time() - computed)
    print(*(1000 * seconds / _COST_STEPS for seconds in passed))


def cost() -> None:
    """Print the time of a training step for each way to pin; rounds alternate."""
    times: dict[str, list[list[float]]] = {name: [] for name in _COSTS}
    for _ in range(_COST_ROUNDS):
        for name, rounds in times.items():
            ended = _child(["--train", name], _ROOT, {}, [])
            if ended.returncode:
                raise SystemExit(f"error: training ended with {ended.returncode}: {_tail(ended)}")
            rounds.append([float(word) for word in ended.stdout.split()])
    print(f"a training step, median of {_COST_ROUNDS} runs of {_COST_STEPS} steps")
    shipped = None
    for name, rounds in times.items():
        passed, computed = (statistics.median(column) for column in zip(*rounds, strict=True))
        shipped = shipped or (passed, computed)
        print(
            f"{name:40} {passed:5.2f} ms, {passed / shipped[0]:4.2f} of shipped;"
            f" of processor time {computed:5.2f} ms, {computed / shipped[1]:4.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Prove that the bits are portable.")
    parser.add_argument("--emulate", nargs="*", metavar="MODEL", help=f"also under {_EMULATOR}")
    parser.add_argument("--cost", action="store_true", help="time what the proof costs instead")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--train", choices=_COSTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        threads, *stages = arguments.child
        run_stages(int(threads), stages)
        return
    if arguments.train:
        train_steps(_COSTS[arguments.train])
        return
    print(machine())
    if arguments.cost:
        cost()
        return
    models = () if arguments.emulate is None else arguments.emulate or _MODELS
    sys.exit(not compare([*NATIVE, *(Condition(model=model) for model in models)]))


if __name__ == "__main__":
    main()
