"""What a stage used is compared with what is there at its end."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, shipped, write_params

from benchmarks.copies import changed, copy_code
from ddpm.core.errors import UserError
from stages import CODE, source_files
from stages.common.lineage import Declaration, read_pipeline

PIPELINE = """
stages:
  one:
    deps: [code, points.npy]
    params: [seed, "schedules.${schedule}", train]
    outs: [a.npy]
    plots:
      - b.csv:
          cache: false
  all:
    params: [{params.yaml: }]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (tmp_path / "code" / "deeper").mkdir(parents=True)
    (tmp_path / "code" / "deeper" / "a.py").write_text("a = 1\n", encoding="utf-8")
    (tmp_path / "points.npy").write_bytes(b"points")
    write_params(tmp_path, shipped())
    return tmp_path


def declared(stage: str) -> Declaration:
    return read_pipeline()[stage]


def test_what_a_stage_uses_is_what_dvc_yaml_lists(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert declared("one").outs == [Path("a.npy"), Path("b.csv")]
    module = folder / "code" / "deeper" / "a.py"
    monkeypatch.setitem(CODE, module.resolve(), "as imported")
    used = declared("one").snapshot(imported=True)
    assert list(used) == ["seed", "schedules.linear", "train", "code/deeper/a.py", "points.npy"]
    assert used["schedules.linear"] == shipped()["schedules"]["linear"]
    assert used["code/deeper/a.py"] == "as imported"
    assert declared("one").snapshot()["code/deeper/a.py"] != "as imported"
    (folder / "dvc.yaml").unlink()
    assert read_pipeline() == {}


def test_the_hashes_cover_all_source_files_wherever_the_pipeline_is() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in CODE}
    assert files == {
        path.relative_to(ROOT).as_posix()
        for package in ("ddpm", "stages")
        for path in (ROOT / package).rglob("*.py")
    }


def test_hidden_files_of_editors_are_no_source_files(folder: Path) -> None:
    (folder / "code" / ".#lock.py").symlink_to("nowhere")
    (folder / "code" / ".ipynb_checkpoints").mkdir()
    (folder / "code" / ".ipynb_checkpoints" / "a.py").write_text("")
    assert source_files(folder / "code") == [folder / "code" / "deeper" / "a.py"]


@pytest.mark.parametrize("stage", ["one", "all"])
def test_what_has_not_changed_is_not_refused(folder: Path, stage: str) -> None:
    declared(stage).refuse_change(declared(stage).snapshot())


def edit(**changes: object) -> Callable[[Path], object]:
    return lambda folder: write_params(folder, changed(shipped(), **changes))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (edit(**{"train.lr": 1}), "train"),
        (edit(seed=1), "seed"),
        (edit(**{"schedules.linear.beta_end": 0.01}), "schedules.linear"),
        (edit(schedule="cosine"), "schedules.cosine"),
        (lambda folder: (folder / "code/deeper/a.py").write_text("a = 2\n"), "code/deeper/a.py"),
        (lambda folder: (folder / "code" / "new.py").write_text(""), "code/new.py"),
        (lambda folder: (folder / "points.npy").unlink(), "points.npy"),
    ],
)
def test_a_change_is_refused_in_one_line(
    folder: Path, change: Callable[[Path], object], name: str
) -> None:
    before = declared("one").snapshot()
    change(folder)
    with pytest.raises(
        UserError, match=rf"^{name} was changed while stage one ran, so "
    ) as refused:
        declared("one").refuse_change(before)
    assert "\n" not in str(refused.value)


def test_a_change_of_something_that_the_stage_does_not_use_is_not_refused(folder: Path) -> None:
    before, everything = declared("one").snapshot(), declared("all").snapshot()
    write_params(folder, changed(shipped(), **{"sample.steps": 3}))
    (folder / "code" / ".a.py.swp").write_text("an editor's")
    declared("one").refuse_change(before)
    with pytest.raises(UserError, match=r"^params\.yaml was changed while stage all ran"):
        declared("all").refuse_change(everything)


# A stage that edits itself, its parameters or its input, as a user might while it runs.
STAGE = """
from pathlib import Path
from stages.common.run import run
from stages.generate import main as generate

def main():
    generate()
    {edit}

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        ("pass", None),
        (
            "p = Path('params.yaml'); p.write_text(p.read_text().replace('seed: 0', 'seed: 1'))",
            "seed",
        ),
        ("Path('ddpm/data/curves.py').open('a').write('# edited')", "ddpm/data/curves.py"),
        ("Path('data/params.ok').write_text('other')", "data/params.ok"),
    ],
)
def test_a_stage_drops_results_that_dvc_would_record_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str, name: str | None
) -> None:
    monkeypatch.chdir(ROOT)
    copy_code(tmp_path)
    (tmp_path / "stages" / "generate_and.py").write_text(STAGE.format(edit=edit), encoding="utf-8")
    pipeline = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(pipeline.replace("  generate:", "  generate_and:"))
    write_params(tmp_path, shipped())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "params.ok").write_text("ok")
    ended = subprocess.run(
        [sys.executable, "-m", "stages.generate_and"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    data = sorted(path.name for path in (tmp_path / "data").iterdir())
    if name is None:
        assert (ended.returncode, data) == (0, ["params.ok", "test.npy", "train.npy"])
    else:
        assert ended.stderr.startswith(f"error: {name} was changed while stage generate_and ran")
        assert (ended.returncode, ended.stderr.count("\n"), data) == (1, 1, ["params.ok"])
