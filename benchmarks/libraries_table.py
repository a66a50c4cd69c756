"""The table of docs/benchmark.md, from benchmarks/libraries.json."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds of each round: ours, ours with pinned arithmetic, and theirs.
Seconds = Mapping[str, Sequence[float]]


def table(path: Path) -> str:
    """The table, in Markdown, and a sentence below it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| | other library | ours | ours, pinned | ratio | ratio, pinned |",
        "|---|---|---|---|---|---|",
    ]
    if "training" in results:
        lines += _training_rows(results["training"])
    if "sampling" in results:
        rows = results["sampling"]["rows"]
        slower = sum(max(_ratios(row["seconds"], "ours")) < 1 for row in rows)
        lines += [
            *_sampling_rows(rows),
            "",
            f"In {slower} of {len(rows)} cells our loop was the slower one in every round.",
        ]
    trials = [name for name in sorted(results) if results[name]["trial"]]
    if trials:
        lines = [f"**A trial run, not a result: {', '.join(trials)}.**", "", *lines]
    return "\n".join(lines)


def _training_rows(part: Mapping[str, Any]) -> Iterator[str]:
    never = f"not reached in {part['minutes']:g} minutes"
    for row in part["rows"]:
        seconds, steps, their_steps = row["seconds"], row["steps"], row["their_steps"]
        cells = [
            f"training to KL {row['limit']}",
            f"{_time(seconds['theirs'])}, {their_steps:,} steps" if their_steps else never,
            f"{_time(seconds['ours'])}, {steps:,} steps" if steps else never,
            _time(seconds["pinned"]) if steps else never,
        ]
        for key in ("ours", "pinned"):
            if steps and their_steps:
                cells.append(_range(_ratios(seconds, key)))
            elif steps:
                cells.append(f"over {_short(60 * part['minutes'] / max(seconds[key]))}")
            else:
                cells.append("")
        yield f"| {' | '.join(cells)} |"


def _sampling_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        cell, seconds = row["cell"], row["seconds"]
        n, threads = cell["n"], cell["threads"]
        cells = [
            f"`{cell['sampler']}`, {cell['evaluations']} evaluations, {n:,} points,"
            f" {threads} thread{'s' * (threads > 1)}",
            *(
                f"{_short(n / statistics.median(seconds[key]))}/s"
                for key in ("theirs", "ours", "pinned")
            ),
            *(_range(_ratios(seconds, key)) for key in ("ours", "pinned")),
        ]
        yield f"| {' | '.join(cells)} |"


def _ratios(seconds: Seconds, key: str) -> list[float]:
    """How many times as long as ours the other library took, by round."""
    return [theirs / ours for theirs, ours in zip(seconds["theirs"], seconds[key], strict=True)]


def _range(ratios: Sequence[float]) -> str:
    median, least, most = map(_short, (statistics.median(ratios), min(ratios), max(ratios)))
    return f"{median} ({least} to {most})"


def _time(seconds: Sequence[float]) -> str:
    return f"{_short(statistics.median(seconds))} s"


def _short(x: float) -> str:
    """Three significant digits, or fewer below 1."""
    return f"{float(f'{x:.3g}'):,.{2 if x < 10 else 1 if x < 100 else 0}f}"
