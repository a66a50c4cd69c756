"""A mistake ends in one clear line, and costs nothing that the user had."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, X86_64_LINUX, run, shipped, write_params
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from test_pipeline import READS, files_in, outputs, with_dependencies

from benchmarks.copies import SIZES, changed
from ddpm.core.compute import _AVAILABLE
from ddpm.core.errors import UserError
from ddpm.diffusion.schedules import SCHEDULES

DEVICES = ["auto", *(name for name, is_available in _AVAILABLE.items() if is_available())]


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished pipeline."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    return copy


def refusal(stage: str, folder: Path) -> str:
    """The line with which a stage refuses; whatever it had written before must be untouched."""
    before = files_in(folder)
    with pytest.raises(UserError) as refused:
        run(stage, folder)
    message = str(refused.value)
    assert "\n" not in message
    # Outside the tests nobody checks the shapes in signatures.
    assert "Type-check" not in message
    assert files_in(folder) == before
    return message


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
@pytest.mark.parametrize(("stage", "path"), READS)
def test_a_damaged_input_is_refused(stage: str, path: str, damage: str, folder: Path) -> None:
    file = folder / path
    content = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        file.write_bytes(pickle.dumps({"x": 1}))
    message = refusal(stage, folder)
    assert path in message
    assert "dvc repro " in message


@pytest.mark.parametrize(
    ("stages", "changes", "message"),
    [
        (["check", "diffuse", "train"], {"schedule": "foo"}, "schedule is 'foo' but should be one"),
        (["check", "train"], {"prediction": "score"}, "prediction is 'score' but should be one of"),
        (["check", "generate", "train"], {"dataset": "moon"}, "dataset is 'moon' but should be on"),
        (["check", "train"], {"network": "unet"}, "network is 'unet' but should be one of mlp"),
        (
            ["check", "train", "sample"],
            {"device": "tpu"},
            f"device is 'tpu' but on this machine should be one of {', '.join(DEVICES)}; change",
        ),
        (["check", "sample"], {"sampler": "magic"}, "sampler is 'magic' but should be one of ddpm"),
        (
            ["check", "sample"],
            {"sample.spacing": "odd"},
            "sample.spacing is 'odd' but should be one of",
        ),
        (["check", "sample"], {"samplers.ddpm.variance": 3}, "samplers.ddpm.variance is 3 but"),
        (
            ["check"],
            {"sample.spacing": "optimised_model", "sample.steps": 5},
            "sample.steps is 5 but optimised_model has been optimised for 3, 4; change",
        ),
        (
            ["check"],
            {"optimise_spacings.sampler": "ddpm"},
            "optimise_spacings.sampler is ddpm, which is random or chooses its own steps; change",
        ),
        (["check"], {"compare_samplers.cells": {}}, "compare_samplers.cells has none that can run"),
        (
            ["check"],
            {"compare_samplers.reference": "ode"},
            "compare_samplers.reference is 'ode' but the cells that can run on this schedule are d",
        ),
        (
            ["check"],
            {"compare_samplers.cells": {"ddim/odd": 3}},
            "the spacing of compare_samplers.cells.ddim/odd is 'odd' but should be",
        ),
        (
            ["check"],
            {"compare_samplers.cells": {"unipc/optimised_truth": 7}},
            "compare_samplers.cells.unipc/optimised_truth has 7 evaluations, 7 steps, but optimise",
        ),
        (
            ["check"],
            {"sampler": "unipc", "diffusion.zero_terminal_snr": True},
            "sampler unipc works in log SNR but with diffusion.zero_terminal_snr it is infinite at",
        ),
        (
            ["check", "train"],
            {"prediction": "eps", "diffusion.zero_terminal_snr": True},
            "diffusion.zero_terminal_snr is true but prediction is eps",
        ),
        (
            ["check", "diffuse", "train"],
            {"diffusion.T": 20, "sample.steps": 20},
            "raise diffusion.T in params.yaml to at least 21",
        ),
        (
            ["check", "generate", "diffuse", "train", "sample", "measure_samples"],
            {"sample.steps": 31},
            "sample.steps is 31 but the schedule has T = 30; lower sample.steps",
        ),
        (["train", "diffuse"], {"data.n_train": 301}, "300 points, but params.yaml asks for 301"),
        (["check"], {"schedules.linear": None}, "schedules.linear is missing; add it to params"),
    ],
)
def test_a_wrong_parameter_is_refused_by_each_stage_it_concerns(
    stages: list[str], changes: dict[str, object], message: str, folder: Path
) -> None:
    write_params(folder, changed(shipped(), **(SIZES | changes)))
    for stage in stages:
        assert message in refusal(stage, folder)


LEAVES = (
    *("seed", "schedule", "sampler", "data.n_train", "diffusion.T", "schedules.cosine.s"),
    *("networks.mlp.width", "train.lr", "samplers.ddim.eta", "sample.steps", "sample"),
    *("optimise_spacings.steps", "measure_model.tolerance", "compare_samplers.cells"),
)
VALUES = st.one_of(
    st.integers(-2, 45),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**30, "3", "2e-5", "1 2 3", "0x10", "nan", "yes", "~", "", True, None]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.proof)])
def test_whatever_a_parameter_holds_the_check_passes_or_refuses(
    tmp_path: Path, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(name=st.sampled_from(LEAVES), value=VALUES)
    def passes_or_refuses(name: str, value: object) -> None:
        values: Any = changed(shipped(), **SIZES)
        *sections, last = name.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[last] = value
        write_params(tmp_path, values)
        with suppress(UserError):
            run("check", tmp_path)

    passes_or_refuses()


# Values at which a reader of YAML itself may stumble, or that are endless for whoever walks them.
STRANGE = [
    *["!!bool 3", "!!int", "!!float", "!!python/name:os.system", "*a", "&a [*a]", "{a: &b {c: 1}}"],
    *["{1: 2}", "? [a]", "<<: 3", "'", "0x", "2001-13-45", "9" * 5000, "{[" * 3000, "\x00"],
    "[" + ", ".join(["&b0 [x]", *(f"&b{k} [{f'*b{k - 1}, ' * 9}]" for k in range(1, 30))]) + "]",
]


@pytest.mark.parametrize("name", ["seed", "beta_start"])
@pytest.mark.parametrize("value", STRANGE)
def test_a_strange_value_of_yaml_is_refused(tmp_path: Path, name: str, value: str) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(rf"(?m)^( *{name}:).*$", lambda match: f"{match[1]} {value}", text, count=1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert "params.yaml" in refusal("check", tmp_path)


def test_what_was_made_with_another_model_is_refused(folder: Path) -> None:
    # The same description with other weights, as after a change of the code.
    model = folder / "models/denoiser.safetensors"
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["ema.read_out.bias"] += 0.01
    save_file(tensors, model, metadata=metadata)
    message = "{} was made with another model than the one now in models/"
    assert message.format("data/trajectories.npz") in refusal("measure_samples", folder)
    assert message.format("data/trajectories.npz") in refusal("attribute_error", folder)
    run("sample", folder)
    assert message.format("data/measured.json") in refusal("measure_samples", folder)
    run("measure_model", folder)
    run("measure_samples", folder)


def test_training_points_that_the_model_was_not_trained_on_are_refused(folder: Path) -> None:
    points = np.load(folder / "data/train.npy")
    np.save(folder / "data/train.npy", points[::-1])
    message = "models/denoiser.safetensors was trained on other points than those in data/train.npy"
    assert message in refusal("measure_model", folder)


def test_spacings_of_another_form_are_refused(folder: Path) -> None:
    (folder / "data/spacings.json").write_text('{"optimised_truth": 5}')
    assert "data/spacings.json cannot be used" in refusal("sample", folder)


def test_samples_of_another_run_are_refused(folder: Path) -> None:
    np.save(folder / "data/samples.npy", np.load(folder / "data/samples.npy")[::-1])
    message = "data/samples.npy holds other points than data/trajectories.npz ends with"
    assert message in refusal("measure_samples", folder)
    assert message in refusal("attribute_error", folder)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


KINDS = sorted({Path(path).suffix: (stage, path) for stage, path in READS}.values())


@pytest.mark.parametrize(("stage", "path"), KINDS)
def test_loading_a_file_runs_no_code_from_it(stage: str, path: str, folder: Path) -> None:
    trace = folder.parent / "trace"
    content = pickle.dumps(Trap(trace))
    (folder / path).write_bytes(content)
    refusal(stage, folder)
    if path.endswith((".npy", ".npz")):
        save = np.save if path.endswith(".npy") else np.savez
        save(folder / path, np.array([Trap(trace)], dtype=object))
        refusal(stage, folder)
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()


def by_hand(stage: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    for package in ("ddpm", "stages"):
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package)
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_a_mistake_by_hand_ends_in_one_line_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    write_params(tmp_path, changed(shipped(), **(SIZES | {"schedule": "cosinus"})))
    ended = by_hand("check", tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: schedule is 'cosinus' but should be one of {', '.join(SCHEDULES)}; change schedule"
        " in params.yaml\n"
    )
    assert not (tmp_path / "data").exists()


def test_success_by_hand_is_quiet_and_records_its_time(finished: Path, tmp_path: Path) -> None:
    with_dependencies("sample", finished, tmp_path)
    (tmp_path / "reports").mkdir(exist_ok=True)
    (tmp_path / "reports/timings.json").write_text("damaged")
    ended = by_hand("sample", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "sampling on cpu\n", "")
    assert json.loads((tmp_path / "reports/timings.json").read_text())["sample"] > 0
    assert files_in(finished)["data/samples.npy"] == files_in(tmp_path)["data/samples.npy"]


@X86_64_LINUX
@pytest.mark.parametrize("stage", ["generate", "draw_figures"])
def test_a_full_disk_ends_in_one_line_and_earlier_outputs_stay(stage: str, folder: Path) -> None:
    before = files_in(folder)
    largest = max((folder / path).stat().st_size for path in outputs(stage))

    def fill() -> None:
        import resource

        # Writing fails in the middle of the largest output.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    ended = by_hand(stage, folder, preexec_fn=fill)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert " cannot be written: File too large" in ended.stderr
    after = {path: sha for path, sha in files_in(folder).items() if "checkpoints/" not in path}
    assert after == before


def test_a_second_run_of_a_stage_in_the_same_folder_waits_for_the_first(
    finished: Path, tmp_path: Path
) -> None:
    with_dependencies("generate", finished, tmp_path)
    for package in ("ddpm", "stages"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "checkpoints").mkdir()
    with FileLock(tmp_path / "checkpoints" / ".generate.lock"):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "stages.generate"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout is not None
        line = waiting.stdout.readline()
        assert line == "another process runs stage generate in this folder; waiting for its end\n"
        assert not (tmp_path / "data" / "train.npy").exists()
        assert waiting.poll() is None
    assert waiting.wait(60) == 0
    waiting.stdout.close()
    assert files_in(finished)["data/train.npy"] == files_in(tmp_path)["data/train.npy"]
