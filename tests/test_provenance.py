import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, changed, shipped, write_params

from ddpm.errors import UserError
from ddpm.files import afterwards, sweep, together, write_text
from ddpm.provenance import declared

PIPELINE = """
stages:
  one:
    deps: [code.py, points.npy]
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
    (tmp_path / "code.py").write_text("a = 1\n", encoding="utf-8")
    (tmp_path / "points.npy").write_bytes(b"points")
    write_params(tmp_path, shipped())
    return tmp_path


def test_what_a_stage_uses_is_what_dvc_yaml_lists(folder: Path) -> None:
    assert declared("one").outs == [Path("a.npy"), Path("b.csv")]
    used = declared("one").used({"code.py": "as imported"})
    assert list(used) == ["seed", "schedules.linear", "train", "code.py", "points.npy"]
    assert used["schedules.linear"] == shipped()["schedules"]["linear"]
    assert used["code.py"] == "as imported"
    assert declared("none").used({}) == {}
    (folder / "dvc.yaml").unlink()
    assert declared("one").used({}) == {}


@pytest.mark.parametrize("stage", ["one", "all"])
def test_what_has_not_changed_is_not_refused(folder: Path, stage: str) -> None:
    declared(stage).refuse_change(declared(stage).used({}))


def edit(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_params(folder, changed(shipped(), **changes)) and None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edit(**{"train.lr": 1}), "train"),
        (edit(seed=1), "seed"),
        (edit(**{"schedules.linear.beta_end": 0.01}), "schedules.linear"),
        (edit(schedule="cosine"), "schedules.cosine"),
        (edit(seed="x"), r"params.yaml"),
        (lambda folder: (folder / "code.py").write_text("a = 2\n") and None, "code.py"),
        (lambda folder: (folder / "points.npy").unlink(), "points.npy"),
    ],
)
def test_a_change_is_refused_in_one_line(
    folder: Path, change: Callable[[Path], None], named: str
) -> None:
    used = declared("one").used({})
    change(folder)
    with pytest.raises(UserError, match=rf"^{named} was changed while stage one ran, so ") as told:
        declared("one").refuse_change(used)
    assert "\n" not in str(told.value)


def test_a_change_of_what_the_stage_does_not_use_is_none_of_its_business(folder: Path) -> None:
    used, everything = declared("one").used({}), declared("all").used({})
    write_params(folder, changed(shipped(), **{"sample.steps": 3}))
    declared("one").refuse_change(used)
    with pytest.raises(UserError, match=r"^params\.yaml was changed while stage all ran"):
        declared("all").refuse_change(everything)


def test_outputs_take_their_places_together_or_not_at_all(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    write_text(one, "before")
    seen: list[str] = []

    def refuse() -> None:
        raise UserError("something was changed")

    def write(ready: Callable[[], None]) -> None:
        with together(ready):
            write_text(one, "after")
            write_text(two, "after")
            afterwards(lambda: seen.append(two.read_text()))
            assert one.read_text() == "before"
            assert not two.exists()

    with pytest.raises(UserError, match="something"):
        write(refuse)
    assert (one.read_text(), list(tmp_path.iterdir()), seen) == ("before", [one], [])
    write(lambda: None)
    assert (one.read_text(), two.read_text(), seen) == ("after", "after", ["after"])
    assert sorted(tmp_path.iterdir()) == [one, two]
    afterwards(lambda: seen.append("now"))
    assert seen == ["after", "now"]


def test_what_a_killed_process_left_of_an_output_is_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".a.csv", "a.npy", "a.1.npy", ".ab.1.npy", ".a.1.csv")]
    for path in (*kept, tmp_path / ".a.123.npy"):
        path.write_bytes(b"")
    sweep(tmp_path / "a.npy")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# A stage that edits itself, its parameters or its input, as a user might while it runs.
STAGE = """
from pathlib import Path
from ddpm.files import read_points, write_array
from stages.common import TRAIN, run
from stages.generate import main as generate

def main():
    generate()
    {edit}

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ("pass", None),
        (
            "p = Path('params.yaml'); p.write_text(p.read_text().replace('seed: 0', 'seed: 1'))",
            "seed",
        ),
        ("Path('ddpm/datasets.py').open('a').write('# edited')", "ddpm/datasets.py"),
        ("Path('data/params.ok').write_text('other')", "data/params.ok"),
    ],
)
def test_a_stage_drops_what_would_be_recorded_wrongly(
    tmp_path: Path, edit: str, named: str | None
) -> None:
    for path in [*ROOT.glob("ddpm/*.py"), *ROOT.glob("stages/*.py"), ROOT / "dvc.yaml"]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "stages" / "generate_and.py").write_text(STAGE.format(edit=edit), encoding="utf-8")
    pipeline = (tmp_path / "dvc.yaml").read_text(encoding="utf-8")
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
    if named is None:
        assert (ended.returncode, data) == (0, ["params.ok", "test.npy", "train.npy"])
    else:
        assert ended.stderr.startswith(f"error: {named} was changed while stage generate_and ran")
        assert (ended.returncode, ended.stderr.count("\n"), data) == (1, 1, ["params.ok"])
