"""Compare our training with that of smalldiffusion, and our sampling with that of diffusers.

python -m benchmarks.libraries           # `make bench`: measure, write benchmarks/libraries.json
python -m benchmarks.libraries --trial   # the same in a few minutes: a table, but no results
python -m benchmarks.libraries --table   # print the table of docs/benchmark.md from the file
With `training` or `sampling` in addition, only this part is measured and replaced in the file.

Training: for each limit on KL(truth || model), the least number of steps that reaches it is
searched, among numbers in ratios of sqrt(2). Sampling: every cell has equal evaluations and
threads. What is compared then takes turns: ours with unpinned arithmetic, ours with pinned
arithmetic, the other library.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import stages
from benchmarks.libraries_table import table
from benchmarks.portable_bits import machine
from ddpm.core.errors import UserError

# Whatever imports torch or NumPy is imported in functions, because a worker imports this module
# before it unpins the arithmetic.

FILE = Path("benchmarks/libraries.json")
_LIMITS = (0.125, 0.05, 0.01, 0.005)
_OURS, _THEIRS = "libraries_training.train_ours", "libraries_training.train_smalldiffusion"
_LOOP, _THEIR_LOOP = "libraries_sampling.time_ours", "libraries_sampling.time_diffusers"
_FIRST_STEPS = {_OURS: 250, _THEIRS: 1000}
# Steps that smalldiffusion trains in a round. Their time is scaled to the steps that it needs.
_ROUND_STEPS = 200
_SAMPLERS, _EVALUATIONS, _POINTS = ("ddim", "dpmpp_2m", "unipc"), (10, 50), (100, 10_000)

# Calls a function of `benchmarks`, by its name and with keyword arguments, in a worker.
Call = Callable[..., Any]


class Workers(NamedTuple):
    """Two processes, with pinned and with unpinned arithmetic. Only one of them works at a time."""

    pinned: Call
    unpinned: Call


class Effort(NamedTuple):
    """Minutes of training at which the search ends for each library, and rounds of timing."""

    minutes: float
    rounds: int


_FULL, _TRIAL = Effort(15, 7), Effort(0.3, 2)


class Trained(NamedTuple):
    """One point of a search: the number of steps, and KL with its standard error."""

    steps: int
    kl: float
    kl_se: float


def search(train: Call, name: str, minutes: float) -> list[Trained]:
    """Train with more and more steps, until all limits are reached or the time is over.

    Each training of ours begins anew, as its learning rate decays to zero. That of smalldiffusion
    is constant, so the next training continues the last one, and goes on until the time is over.
    """
    continues = name == _THEIRS
    trainings: list[Trained] = []
    done, left, rate = 0, 60 * minutes, 0.0
    for k in itertools.count():
        steps = round(_FIRST_STEPS[name] * 2 ** (k / 2)) - done
        if steps * rate > left:
            steps = max(0, int(left / rate)) if continues else 0
        if steps == 0:
            break
        training = train(name, steps=steps, measured=True)
        left, rate = left - training.seconds, training.seconds / steps
        trainings.append(Trained(done + steps, *training.kl))
        print(f"{name}: {training.seconds:.1f} s, {trainings[-1]}", flush=True)
        if trainings[-1].kl <= min(_LIMITS):
            break
        done += steps if continues else 0
    return trainings


def fewest_steps(trainings: Sequence[Trained], limit: float) -> int | None:
    """The least number of steps after which KL is at most the limit; None if there is none."""
    return min((trained.steps for trained in trainings if trained.kl <= limit), default=None)


def compare_training(effort: Effort) -> dict[str, Any]:
    """Search the steps for each limit, and time these trainings in turns."""
    with working() as workers:
        ours = search(workers.pinned, _OURS, effort.minutes)
        theirs = search(workers.unpinned, _THEIRS, effort.minutes)
        rows: list[dict[str, Any]] = [
            {
                "limit": limit,
                "steps": fewest_steps(ours, limit),
                "their_steps": fewest_steps(theirs, limit),
                "seconds": {"ours": [], "pinned": [], "theirs": []},
            }
            for limit in _LIMITS
        ]
        for _, row in itertools.product(range(effort.rounds), rows):
            seconds, steps, their_steps = row["seconds"], row["steps"], row["their_steps"]
            if steps:
                seconds["ours"].append(workers.unpinned(_OURS, steps=steps).seconds)
                seconds["pinned"].append(workers.pinned(_OURS, steps=steps).seconds)
            if their_steps:
                training = workers.unpinned(_THEIRS, steps=_ROUND_STEPS)
                seconds["theirs"].append(training.seconds * their_steps / _ROUND_STEPS)
            _print_last(f"KL {row['limit']}", seconds)
    searches = {"ours": ours, "smalldiffusion": theirs}
    return {"minutes": effort.minutes, "rows": rows, "searches": searches}


def compare_sampling(effort: Effort) -> dict[str, Any]:
    """Time every cell in turns, with one thread and with one for each core.

    Every round has new processes, because where one happens to place its arrays in memory makes a
    loop a few per cent faster or slower for as long as it lives. Every other round is reversed.
    """
    from ddpm.core.compute import cores

    names = ("sampler", "evaluations", "n", "threads")
    rows: list[dict[str, Any]] = [
        {
            "cell": dict(zip(names, values, strict=True)),
            "seconds": {"ours": [], "pinned": [], "theirs": []},
        }
        for values in itertools.product(_SAMPLERS, _EVALUATIONS, _POINTS, sorted({1, cores()}))
    ]
    for k in range(effort.rounds):
        with working() as workers:
            for row in rows:
                cell, seconds = row["cell"], row["seconds"]
                calls = [
                    ("ours", workers.unpinned, {"name": _LOOP, "pinned": False}),
                    ("pinned", workers.pinned, {"name": _LOOP, "pinned": True}),
                    ("theirs", workers.unpinned, {"name": _THEIR_LOOP}),
                ]
                for key, call, options in calls[:: (-1) ** k]:
                    seconds[key].append(call(**options, **cell))
                _print_last(" ".join(map(str, cell.values())), seconds)
    return {"rows": rows}


def _print_last(name: str, seconds: dict[str, list[float]]) -> None:
    last = (f"{key} {values[-1]:.4g} s" for key, values in seconds.items() if values)
    print(f"{name}: {', '.join(last)}", flush=True)


_PARTS: dict[str, Callable[[Effort], dict[str, Any]]] = {
    "training": compare_training,
    "sampling": compare_sampling,
}


@contextmanager
def working() -> Iterator[Workers]:
    """Start both workers, and end them after the block."""
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, context) as pinned,
        ProcessPoolExecutor(1, context, initializer=unpin) as unpinned,
    ):
        yield Workers(_call_in(pinned), _call_in(unpinned))


def unpin() -> None:
    """Let torch and NumPy, not yet imported, choose their code; all but torch keep one thread."""
    assert not {"numpy", "torch"} & sys.modules.keys()
    for name in stages._PINNED_X86:
        os.environ.pop(name, None)


def _call_in(pool: ProcessPoolExecutor) -> Call:
    return lambda name, **arguments: pool.submit(_run, name, arguments).result()


def _run(name: str, arguments: dict[str, Any]) -> object:
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)(**arguments)


def measure(parts: Sequence[str], effort: Effort) -> None:
    """Measure parts, and write each to the file once it is complete."""
    from stages.common.files import write_json
    from stages.common.outputs import completing

    for library in ("smalldiffusion", "diffusers"):
        if importlib.util.find_spec(library) is None:
            raise UserError(f"{library} is missing; `make bench` installs it")
    print(machine(), flush=True)
    # The progress bars of all libraries cost time.
    os.environ["TQDM_DISABLE"] = "1"
    for part in parts:
        measured = json.dumps(_PARTS[part](effort) | {"trial": effort == _TRIAL})
        # Four digits of every number: more than a repeated timing has.
        rounded = json.loads(measured, parse_float=lambda digits: float(f"{float(digits):.4g}"))
        results = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        with completing():
            write_json(FILE, results | {part: rounded})


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare with smalldiffusion and diffusers.")
    parser.add_argument("part", nargs="?", choices=_PARTS, help="by default, both parts")
    parser.add_argument("--trial", action="store_true", help="measure little")
    parser.add_argument("--table", action="store_true", help="print the table, measure nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        parts = [arguments.part] if arguments.part else list(_PARTS)
        measure(parts, _TRIAL if arguments.trial else _FULL)
    print(table(FILE))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
