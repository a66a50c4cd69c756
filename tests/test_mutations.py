"""Nothing that stands in params.yaml or in a file ends in a traceback or costs an output.

`make test` tries a few; MUTATIONS=200 python -m pytest tests/test_mutations.py tries two hundred
params.yaml and half as many files.
"""

import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, changed, inside, run, shipped, write_params
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save
from test_pipeline import READS, STAGES, files_in, outputs

from ddpm.errors import UserError
from ddpm.files import together
from ddpm.process import PREDICTIONS
from ddpm.provenance import declared
from ddpm.samplers import SAMPLERS
from ddpm.schedules import SCHEDULES
from ddpm.spacings import OPTIMISED, SPACINGS

MUTATIONS = int(os.environ.get("MUTATIONS", "16"))


def attempt(folder: Path, stages: list[str]) -> str | None:
    """Run stages until one refuses, and see that it refuses well; what it said."""
    with inside(folder):
        for stage in stages:
            before = files_in(folder)
            said = None
            try:
                # As stages.common.run does, but for the exit code.
                with together(lambda: None):
                    run(stage, folder)
            except UserError as error:
                said = str(error)
            if said is not None:
                assert said.isprintable()
                assert len(said) < 600
                # Outside the tests nobody checks shapes in signatures.
                assert "Type-check" not in said
                assert files_in(folder) == before
                return said
            after = files_in(folder)
            assert set(after) == set(before)
            assert {path for path in after if after[path] != before[path]} <= set(outputs(stage))
    return None


# Valid values and others; what is a size stays small, or is beyond all that is allowed.
NUMBERS = st.one_of(
    st.integers(-2, 45),
    st.floats(-1, 5),
    st.sampled_from([0, 1e-30, 1e-3, 0.999, 1, 1e12, 10**30, -(10**30), 2e-05]),
    st.sampled_from([float("nan"), float("inf"), -0.0]),
)
NAMES = st.sampled_from([*SCHEDULES, *SAMPLERS, *SPACINGS, *OPTIMISED, "eps", "x0", "v", "cpu"])
STRANGE = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["3", "2e-5", "1 2 3", "0x10", "1_0", "nan", "yes", "~", "", "cuda", "5 5"]),
    st.booleans(),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in tree.items():
        names.append(prefix + key)
        if isinstance(value, dict) and not prefix.endswith("cells."):
            names += leaves(value, f"{prefix}{key}.")
    return names


SHIPPED = changed(shipped(), **SMALL)
PLACES = leaves(SHIPPED)
NAMED = {
    "schedule": [*SCHEDULES],
    "sampler": [*SAMPLERS],
    "optimise.sampler": [*SAMPLERS],
    "prediction": [*PREDICTIONS],
    "sample.spacing": [*SPACINGS, *OPTIMISED],
    "samplers.ddpm.variance": ["posterior", "beta", "analytic"],
}


def fitting(name: str) -> st.SearchStrategy[tuple[str, str, object]] | None:
    """Values of a leaf that are of its kind, and allowed by themselves more often than not."""
    value = reduce(getitem, name.split("."), SHIPPED)
    values: st.SearchStrategy[object] | None = None
    if name in NAMED:
        values = st.sampled_from(NAMED[name])
    elif isinstance(value, bool):
        values = st.just(not value)
    elif isinstance(value, int):
        values = st.integers(max(1, value // 4), min(2 * value, 300) + 1)
    elif isinstance(value, float):
        values = st.floats(*sorted((value / 3, value * 3))) if value else st.floats(0, 1)
    elif name.endswith("steps") or ".cells." in name:
        values = st.sampled_from(["1", "2 5", 3, "7 4 9"])
    return None if values is None else st.tuples(st.just(name), st.just("set"), values)


FITTING = st.lists(
    st.one_of([one for name in [*NAMED, *NAMED, *PLACES] if (one := fitting(name)) is not None]),
    min_size=1,
    max_size=3,
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(PLACES),
        st.sampled_from(["set", "set", "set", "remove", "add"]),
        st.one_of(NUMBERS, NUMBERS, NAMES, STRANGE),
    ),
    min_size=1,
    max_size=3,
)
ONE_EXAMPLE_EACH = settings(
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def mutated(changes: list[tuple[str, str, object]]) -> dict[str, Any]:
    values = changed(shipped(), **SMALL)
    for name, how, value in changes:
        *sections, last = name.split(".")
        target: Any = values
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if isinstance(target, dict):
            if how == "remove":
                target.pop(last, None)
            else:
                target[last + ("x" if how == "add" else "")] = value
    return values


def try_parameters(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("params") / "copy"
    shutil.copytree(finished, folder)
    write_params(folder, mutated(changes))
    attempt(folder, list(STAGES))
    shutil.rmtree(folder)


@seed(0)
@settings(ONE_EXAMPLE_EACH, max_examples=MUTATIONS * 5 // 8)
@given(changes=CHANGES)
def test_mutated_parameters_run_or_are_refused_in_one_line(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, object]]
) -> None:
    try_parameters(finished, tmp_path_factory, changes)


# Most of these run, and that takes long.
@seed(0)
@settings(ONE_EXAMPLE_EACH, max_examples=MUTATIONS // 8)
@given(changes=FITTING)
def test_other_parameters_run_or_are_refused_in_one_line(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, object]]
) -> None:
    try_parameters(finished, tmp_path_factory, changes)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, lost, doubled or put in; or all from somewhere on."""
    damage = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(damage) + 1)
        kind = chance.choice(["flip", "lose", "put", "double", "cut", "words"])
        if kind == "flip" and at < len(damage):
            damage[at] ^= 1 << chance.randrange(8)
        elif kind == "lose":
            del damage[at : at + chance.choice([1, 4, 200])]
        elif kind == "put":
            damage[at:at] = chance.randbytes(chance.choice([1, 8, 64]))
        elif kind == "double":
            damage[at:at] = damage[at : at + 80]
        elif kind == "cut" and chance.random() < 0.3:
            del damage[at:]
        elif kind == "words":
            damage[at:at] = chance.choice(
                [b"\0", b"\t", b"\xff", b"- &a [*a]", b"{[" * 3000, b"1e999"]
            )
    return bytes(damage)


@pytest.mark.parametrize("k", range(MUTATIONS // 4))
def test_damaged_text_of_parameters_is_refused_in_one_line(
    finished: Path, tmp_path: Path, k: int
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    path = folder / "params.yaml"
    path.write_bytes(damaged(path.read_bytes(), random.Random(k)))
    attempt(folder, ["check", "generate"])


# What the reader of YAML itself stumbles over, or what is endless to whoever walks it.
STRANGE_VALUES = [
    *["!!bool 3", "!!int", "!!float", "!!timestamp 3", "!!binary 3", "!!python/name:os.system"],
    *["*a", "&a [*a]", "&a {x: *a}", "{a: &b {c: 1}, d: *b}", "{1: 2}", "? [a]", "<<: 3", "'", "|"],
    *["0x", "2001-13-45", "9" * 5000, "{[" * 3000, "\x00", "\x1b[2J", "'a\n\n  b'", "x" * 2000],
    "[" + ", ".join(["&b0 [x]", *(f"&b{k} [{f'*b{k - 1}, ' * 9}]" for k in range(1, 30))]) + "]",
]


@pytest.mark.parametrize("name", ["n_train", "seed", "beta_start", "eta", "schedule"])
@pytest.mark.parametrize("value", STRANGE_VALUES)
def test_a_strange_value_of_yaml_is_refused_in_one_line(
    tmp_path: Path, name: str, value: str
) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(rf"(?m)^( *{name}:).*$", lambda found: f"{found[1]} {value}", text, count=1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)

    def start() -> None:
        declared("train").used({})
        run("check", tmp_path)

    with inside(tmp_path), pytest.raises(UserError) as refused:
        start()
    assert str(refused.value).isprintable()


def array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def claims(shape: str) -> bytes:
    """A .npy file whose header speaks of more than there is."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 80


def zipped(members: dict[str, bytes], *, how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def foreign(path: Path, names: list[str]) -> dict[str, bytes]:
    """Files of strangers, under the name of one of ours."""
    huge = "(123456789012, 2)"
    values = json.dumps({"model": 1e308, "prior_gap": "nan", "optimised_truth": {"3": [10**400]}})
    return {
        "pickle": pickle.dumps({"x": 1}),
        "huge header": (2**62).to_bytes(8, "little") + b"{}" * 40,
        "huge array": claims(huge),
        "negative array": claims("(-5, 2)"),
        "huge members": zipped(dict.fromkeys(names, claims(huge))),
        "bomb": zipped(
            dict.fromkeys(names, array_bytes(np.zeros((1_000_000, 2), np.float32))),
            how=zipfile.ZIP_DEFLATED,
        ),
        "nan": array_bytes(np.full((300, 2), np.nan, np.float32)),
        "double": array_bytes(np.zeros((300, 2))),
        "long": array_bytes(np.zeros((300, 3), np.float32)),
        "integers": zipped(dict.fromkeys(names, array_bytes(np.arange(6)))),
        "nans": zipped(dict.fromkeys(names, array_bytes(np.full((6, 120, 2), np.nan, np.float32)))),
        "deep": b"[" * 100_000,
        "values": values.encode(),
        "strings": b'{"prior_gap": "x", "optimised_truth": {"3": ["3", "2", "1"], "4": "4321"}}',
        "rows": b"t,loss,step\n1,2\n3\n",
    }


def tampered(path: Path, chance: random.Random) -> bytes:
    """A file of the same format in which one value is another."""
    content = path.read_bytes()
    if path.suffix == ".json":
        tree = json.loads(content)
        *sections, last = chance.choice(leaves(tree)).split(".")
        reduce(getitem, sections, tree)[last] = chance.choice(
            ["3", "nan", None, True, [], [1], {}, {"a\n\x1b": 1}, -1, 0, 1e308, 10**400, 1e-320]
        )
        return json.dumps(tree).encode()
    if path.suffix == ".csv":
        rows = [line.split(",") for line in content.decode().splitlines()]
        row = chance.choice(rows)
        row[chance.randrange(len(row))] = chance.choice(
            ["", "nan", "1e999", "1e308", "-1", "0", "1_0", '"', "x" * 1000, "a/b/c", "1,2"]
        )
        return "".join(",".join(row) + "\n" for row in rows).encode()
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        name = chance.choice(sorted(name for name in tensors if not name.startswith("weights.")))
        tensors[name] = torch.from_numpy(np.array(retouched(tensors[name].numpy(), chance)))
        return save(tensors, metadata=metadata)
    if path.suffix == ".npy":
        return array_bytes(retouched(np.load(path), chance))
    with np.load(path) as arrays:
        members = {name: array_bytes(arrays[name]) for name in arrays}
        name = chance.choice(sorted(members))
        return zipped(members | {name: array_bytes(retouched(arrays[name], chance))})


def retouched(array: np.ndarray, chance: random.Random) -> np.ndarray:
    """An array of another type or shape, or in which one number or all are others."""
    if array.dtype.kind == "U":
        return np.array("x\n\x1b[2J" * 50)
    other = chance.choice([math.nan, math.inf, 1e38, -1e5, 1e-40, 0.0])
    numbers = array.astype(float)
    largest = numbers == numbers.max()
    changes = [
        array.astype(np.float16),
        array.astype(np.complex64),
        array[:0] if array.ndim else array[None],
        array[..., :1] if array.ndim else array[None],
        array[None],
        array.T[::-1] if array.ndim else -array,
        np.where(largest, other, numbers).astype(array.dtype),
        np.where(largest, other, numbers).astype(array.dtype),
        np.full_like(array, other),
    ]
    # Not ascontiguousarray, which gives a number a dimension.
    return np.array(chance.choice(changes), order="C")


def members_of(path: Path) -> list[str]:
    if path.suffix != ".npz":
        return ["x"]
    with np.load(path) as arrays:
        return list(arrays)


# Each is tried with each kind of damage in turn; stage `figures` reads many and is slow.
PAIRS = [(stage, path) for stage, path in READS if stage != "check"]


@pytest.mark.parametrize("k", range(MUTATIONS // 2))
def test_a_mutated_file_is_used_or_refused_in_one_line(
    finished: Path, tmp_path: Path, k: int
) -> None:
    chance = random.Random(k)
    stage, name = PAIRS[(k * 7) % len(PAIRS)]
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    path = folder / name
    strangers = foreign(path, members_of(path))
    if k % 2:
        path.write_bytes(list(strangers.values())[(k // 2) % len(strangers)])
        assert attempt(folder, [stage]) is not None
    elif k % 4 == 2:
        path.write_bytes(tampered(path, chance))
        attempt(folder, [stage])
    elif k % 5 == 4:
        _, other = chance.choice(PAIRS)
        path.write_bytes((finished / other).read_bytes())
        attempt(folder, [stage])
    else:
        path.write_bytes(damaged(path.read_bytes(), chance))
        attempt(folder, [stage])


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


KINDS = sorted({Path(name).suffix: (stage, name) for stage, name in PAIRS}.values())


@pytest.mark.parametrize(("stage", "name"), KINDS)
def test_loading_a_file_runs_nothing_that_it_holds(
    finished: Path, tmp_path: Path, stage: str, name: str
) -> None:
    folder, trace = tmp_path / "copy", tmp_path / "trace"
    shutil.copytree(finished, folder)
    objects = np.array([Trap(trace)], dtype=object)
    disguised = {
        "plain": pickle.dumps(Trap(trace)),
        "array": array_bytes(objects),
        "members": zipped(dict.fromkeys(members_of(folder / name), array_bytes(objects))),
    }
    for content in disguised.values():
        (folder / name).write_bytes(content)
        assert attempt(folder, [stage]) is not None
        assert not trace.exists()
    pickle.loads(disguised["plain"])
    assert trace.exists()


@pytest.mark.parametrize("stage", ["generate", "train", "sample", "figures"])
def test_a_full_disk_is_told_in_one_line_and_earlier_outputs_stay(
    finished: Path, tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for package in ("ddpm", "stages"):
        (folder / package).symlink_to(ROOT / package)
    before = files_in(folder)
    largest = max((folder / path).stat().st_size for path in outputs(stage))

    def fill() -> None:
        # Writing fails in the middle of the largest output.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    ended = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path)},
        preexec_fn=fill,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert " cannot be written: File too large" in ended.stderr
    after = {path: sha for path, sha in files_in(folder).items() if "checkpoints/" not in path}
    assert after == before
