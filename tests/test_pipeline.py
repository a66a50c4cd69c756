"""dvc.yaml against what the stages really import, read, use and write; and mistakes by hand."""

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, changed, inside, run, shipped, write_params
from filelock import FileLock
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import save_file
from test_structure import imported

from ddpm.datasets import Scaling
from ddpm.errors import UserError
from ddpm.params import Params, Settings, load
from ddpm.subject import load_subject
from stages.common import MODEL, TRAIN

PIPELINE = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = PIPELINE["stages"]
# The marker that parameters are valid is never read: its existence orders the stages.
UNREAD = {"data/params.ok", "requirements.txt"}


def paths(items: list[str | dict[str, Any]]) -> list[str]:
    """Entries of a list in dvc.yaml, with or without options."""
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def outputs(stage: str) -> list[str]:
    return [
        path for kind in ("outs", "metrics", "plots") for path in paths(STAGES[stage].get(kind, []))
    ]


def data_dependencies(stage: str) -> list[str]:
    return [path for path in STAGES[stage]["deps"] if not path.endswith(".py")]


def modules_of(path: Path, seen: set[Path]) -> set[Path]:
    """The project's files that running `path` executes: its imports, and the packages around."""
    if path in seen or not path.exists():
        return seen
    seen.add(path)
    modules_of(path.parent / "__init__.py", seen)
    for name in imported(path):
        if name.split(".")[0] in {"ddpm", "stages"}:
            module = ROOT.joinpath(*name.split("."))
            modules_of(module.with_suffix(".py"), seen)
            modules_of(module / "__init__.py", seen)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_it_imports(stage: str) -> None:
    needed = modules_of(ROOT / "stages" / f"{stage}.py", set())
    expected = sorted(path.relative_to(ROOT).as_posix() for path in needed)
    declared = [path for path in STAGES[stage]["deps"] if path.endswith(".py")]
    assert declared == expected, "dvc.yaml should list:\n" + "\n".join(
        f"      - {path}" for path in expected
    )


def test_every_stage_computes_with_the_pinned_packages_after_the_check() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert "requirements.txt" in stage["deps"]
        assert name == "check" or "data/params.ok" in stage["deps"]


def test_every_stage_has_an_output_in_the_cache_and_keeps_its_run_cache() -> None:
    for name, stage in STAGES.items():
        assert stage["outs"], name
        assert all(isinstance(out, str) for out in stage["outs"]), f"{name}: outs are in the cache"
        for kind in ("metrics", "plots"):
            for item in stage.get(kind, []):
                assert next(iter(item.values()))["cache"] is False
    assert not any(path.endswith("/") for stage in STAGES for path in outputs(stage))


def test_what_is_in_git_and_what_is_not() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", *(path for stage in STAGES for path in outputs(stage))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert ignored == [path for stage in STAGES for path in STAGES[stage]["outs"]]


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_dependencies(stage: str, finished: Path, folder: Path) -> Path:
    """A new folder with the parameters and with what the stage says that it reads."""
    for path in ("params.yaml", *data_dependencies(stage)):
        if path not in UNREAD:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(finished / path, folder / path)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_and_writes_what_it_declares_and_repeats_its_bits(
    stage: str, finished: Path, tmp_path: Path
) -> None:
    before = files_in(with_dependencies(stage, finished, tmp_path))
    run(stage, tmp_path)
    written = {path: sha for path, sha in files_in(tmp_path).items() if path not in before}
    assert sorted(written) == sorted(outputs(stage))
    first = files_in(finished)
    assert written == {path: first[path] for path in written}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tracks_the_parameters_it_uses(
    stage: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {
        field.annotation: name
        for name, field in Params.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    used: set[str] = set()
    plain = Settings.__getattribute__

    def watched(self: Settings, name: str) -> object:
        fields = type(self).model_fields
        if type(self) is Params and name in fields:
            nested = fields[name].annotation in sections
            chosen = {"schedules": ".linear", "samplers": SAMPLER_OF.get(stage, "")}.get(name, "")
            used.update(() if nested else {name + chosen})
        elif type(self) in sections and name == "model_dump":
            used.update(f"{sections[type(self)]}.{field}" for field in fields)
        elif type(self) in sections and name in fields:
            used.add(f"{sections[type(self)]}.{name}")
        return plain(self, name)

    folder = with_dependencies(stage, finished, tmp_path)
    with inside(folder):
        main = importlib.import_module(f"stages.{stage}").main
        loaded = None
        if hasattr(sys.modules[f"stages.{stage}"], "load"):
            # Loading looks at sizes of all sections; what counts is what the stage looks at.
            loaded = sys.modules[f"stages.{stage}"].load()
            monkeypatch.setattr(f"stages.{stage}.load", lambda: loaded)
        monkeypatch.setattr(Settings, "__getattribute__", watched)
        main()
        monkeypatch.undo()

    tracked = STAGES[stage].get("params", [])
    if stage == "check":
        assert tracked == [{"params.yaml": None}]
        return
    chosen = {"${schedule}": "linear", "${sampler}": "ddpm", "${optimise.sampler}": "unipc"}
    for name, value in chosen.items():
        tracked = [entry.replace(name, value) for entry in tracked]
    assert tracked == sorted(tracked)
    for name in used:
        assert any(name == entry or name.startswith(f"{entry}.") for entry in tracked), name
    for entry in tracked:
        assert any(name == entry or name.startswith(f"{entry}.") for name in used), entry


SAMPLER_OF = {"sample": ".ddpm", "attribute": ".ddpm", "optimise": ".unipc"}
READS = [
    (stage, path) for stage in STAGES for path in data_dependencies(stage) if path not in UNREAD
]


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
@pytest.mark.parametrize(("stage", "path"), READS)
def test_a_damaged_input_is_told_in_one_line_and_nothing_is_touched(
    stage: str, path: str, damage: str, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    content = (folder / path).read_bytes()
    if damage == "missing":
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    before = files_in(folder)
    with pytest.raises(UserError, match="dvc repro ") as refused:
        run(stage, folder)
    assert path in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files_in(folder) == before


@pytest.mark.parametrize(
    ("stages", "changes", "message"),
    [
        (
            ["check", "diffuse", "train", "sample", "evaluate"],
            {"schedule": "foo"},
            "schedule is 'f",
        ),
        (
            ["check", "train", "sample", "evaluate"],
            {"prediction": "score"},
            "prediction is 'score'",
        ),
        (
            ["check", "train", "sample"],
            {"device": "tpu"},
            "device is 'tpu' but of auto, cuda, mps, cpu this machine offers",
        ),
        (["check", "sample"], {"sampler": "magic"}, "sampler is 'magic' but should be one of ddpm"),
        (
            ["check"],
            {"sample.spacing": "optimised_model", "sample.steps": 5},
            "sample.steps is 5 but optimised_model has been optimised for 3, 4; change",
        ),
        (["check"], {"optimise.sampler": "ddpm"}, "optimise.sampler is ddpm but its arrivals are"),
        (["check"], {"compare.cells": {}}, "compare.cells has none that can be run on this sch"),
        (["check"], {"compare.cells": {"ddim/odd": 3}}, "the spacing of compare.cells.ddim/odd is"),
        (
            ["check"],
            {"compare.cells": {"unipc/optimised_truth": 7}},
            "compare.cells.unipc/optimised_truth has 7 evaluations, 7 steps, but optimise.steps is",
        ),
        (
            ["check"],
            {"sampler": "unipc", "diffusion.zero_terminal_snr": True},
            "sampler unipc works in log SNR but with diffusion.zero_terminal_snr it is infinite at",
        ),
        (
            ["check", "sample"],
            {"sample.spacing": "odd"},
            "sample.spacing is 'odd' but should be on",
        ),
        (["check", "sample"], {"samplers.ddpm.variance": 3}, "samplers.ddpm.variance is 3 but"),
        (
            ["check", "diffuse", "train", "sample", "evaluate"],
            {"diffusion.T": 20, "sample.steps": 20},
            "raise diffusion.T in params.yaml to at least 21",
        ),
        (
            ["check", "generate", "diffuse", "train", "sample", "evaluate"],
            {"sample.steps": 31},
            "sample.steps is 31 but the schedule has T = 30; lower sample.steps",
        ),
        (
            ["check", "generate", "diffuse", "train", "sample", "evaluate"],
            {"train.lr": float("nan")},
            "train.lr is nan but should be",
        ),
        (["sample", "evaluate"], {"prediction": "eps"}, "was trained with prediction = v but para"),
        (["sample", "evaluate"], {"schedule": "cosine"}, "was trained with schedule = linear but"),
        (["sample", "evaluate"], {"train.lr": 0.1}, "was trained with train.lr = 0.004 but params"),
        (["train", "diffuse"], {"data.n_train": 301}, "300 points, but params.yaml asks for 301"),
        (["evaluate"], {"sample.n": 251}, "250 points, but params.yaml asks for 251"),
    ],
)
def test_a_mistake_is_told_by_each_stage_it_concerns_and_nothing_is_touched(
    stages: list[str], changes: dict[str, object], message: str, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    write_params(folder, changed(shipped(), **(SMALL | changes)))
    before = files_in(folder)
    for stage in stages:
        with pytest.raises(UserError) as refused:
            run(stage, folder)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
    assert files_in(folder) == before


def test_a_model_of_other_data_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    points = np.load(folder / "data/train.npy")
    np.save(folder / "data/train.npy", points[::-1])
    for stage in ("sample", "evaluate"):
        with pytest.raises(
            UserError, match=r"trained on other data than what is now in data/train\.npy"
        ):
            run(stage, folder)


def test_what_was_made_with_another_model_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    # The same recipe, as after a change of the code: other weights.
    model = folder / "models/denoiser.safetensors"
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["ema.read_out.bias"] += 0.01
    save_file(tensors, model, metadata=metadata)
    told = r"{} was made with another model than what is now in models/.*; make it again with"
    with pytest.raises(UserError, match=told.format(r"data/trajectories\.npz")):
        run("evaluate", folder)
    run("sample", folder)
    with pytest.raises(UserError, match=told.format(r"data/measured\.json")):
        run("evaluate", folder)
    run("measure", folder)
    run("evaluate", folder)


def test_samples_of_another_run_are_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    np.save(folder / "data/samples.npy", np.load(folder / "data/samples.npy")[::-1])
    with pytest.raises(UserError, match=r"samples\.npy holds other points than data/trajectories"):
        run("evaluate", folder)


def by_hand(stage: str, folder: Path) -> subprocess.CompletedProcess[str]:
    for package in ("ddpm", "stages"):
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package)
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_mistake_by_hand_ends_in_one_line_on_stderr_and_exit_code_1(
    finished: Path, tmp_path: Path
) -> None:
    write_params(tmp_path, changed(shipped(), **(SMALL | {"schedule": "cosinus"})))
    ended = by_hand("check", tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        "error: schedule is 'cosinus' but should be one of linear, scaled_linear, cosine, sigmoid,"
        " first_principles; change schedule in params.yaml\n"
    )
    assert not (tmp_path / "data").exists()


def test_success_by_hand_is_quiet_and_notes_its_time(finished: Path, tmp_path: Path) -> None:
    with_dependencies("sample", finished, tmp_path)
    ended = by_hand("sample", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "sampling on cpu\n", "")
    assert json.loads((tmp_path / "reports/timings.json").read_text())["sample"] > 0
    assert files_in(finished)["data/samples.npy"] == files_in(tmp_path)["data/samples.npy"]


def test_a_second_run_of_a_stage_in_the_same_folder_waits_for_the_first(
    finished: Path, tmp_path: Path
) -> None:
    with_dependencies("generate", finished, tmp_path)
    for package in ("ddpm", "stages"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "checkpoints").mkdir()
    lock = FileLock(tmp_path / "checkpoints" / ".generate.lock")
    with lock:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "stages.generate"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout is not None
        said = waiting.stdout.readline()
        assert said == "another process runs stage generate in this folder; waiting for its end\n"
        assert not (tmp_path / "data" / "train.npy").exists()
        assert waiting.poll() is None
    assert waiting.wait(60) == 0
    waiting.stdout.close()
    assert files_in(finished)["data/train.npy"] == files_in(tmp_path)["data/train.npy"]


def test_the_truth_is_that_of_the_data_the_model_was_trained_on(finished: Path) -> None:
    with inside(finished):
        subject = load_subject(MODEL, load(), TRAIN)
    points = torch.from_numpy(np.load(finished / "data/train.npy")).double()
    scaling = Scaling.of(points)
    assert subject.truth.noise == 0.02 / scaling.scale
    # Of true points in model units the truth must find its own entropy: about -0.50 in data units.
    surprise = -subject.truth.log_density(subject.fresh(4000, "x"), 0) - scaling.log_jacobian
    assert float(surprise.mean()) == pytest.approx(-0.50, abs=4 * 0.77 / 4000**0.5 + 0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion.zero_terminal_snr": True, "sampler": "ode", "sample.steps": 1},
        {"data.noise": 0, "sampler": "ode", "sample.steps": 2},
        {"prediction": "x0", "sampler": "heun", "samplers.heun.churn": 0.1, "sample.steps": 9},
        {"sampler": "unipc", "sample.spacing": "optimised_model", "sample.steps": 4},
        {"samplers.ddpm.variance": "analytic", "schedule": "cosine", "diffusion.T": 40},
    ],
    ids=str,
)
def test_all_stages_run_with(changes: dict[str, object], tmp_path: Path) -> None:
    write_params(tmp_path, changed(shipped(), **(SMALL | changes)))
    for stage in STAGES:
        run(stage, tmp_path)
    metrics = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert metrics["likelihood"]["t"] == (
        0 if not {"data.noise", "prediction"} & set(changes) else 1
    )
