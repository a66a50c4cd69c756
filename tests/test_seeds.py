"""Whether another result is the same within what seeds give."""

import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import seeds
from ddpm.core.errors import UserError
from stages.common.files import read_json, write_json
from stages.common.outputs import completing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks/seeds.json", tmp_path / "benchmarks")
    shutil.copy(ROOT / "dvc.lock", tmp_path / "committed.lock")
    shutil.copy(ROOT / "dvc.lock", tmp_path / "dvc.lock")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_committed_file_is_over_ten_seeds_of_which_one_is_the_committed_result() -> None:
    found = read_json(ROOT / "benchmarks" / "seeds.json", stage="check")
    assert found["lock"] == seeds.belongs_to(ROOT / "dvc.lock"), "run `make seeds`"
    assert len(set(found["seeds"])) >= 10
    metrics = seeds.metrics_in(ROOT)
    assert {name: values[0] for name, values in found["values"].items()} == metrics
    kl = found["values"]["reports/metrics.json: likelihood.kl.value"]
    assert len(set(kl)) == len(found["seeds"])


@pytest.mark.parametrize(
    ("value", "values", "expected"),
    [
        (1.0 + 5 * 0.1 - 1e-9, [0.9, 1.0, 1.1], True),
        (1.0 + 5 * 0.1 + 1e-9, [0.9, 1.0, 1.1], False),
        (2.0, [2.0, 2.0, 2.0], True),
        (2.0 + 1e-12, [2.0, 2.0, 2.0], True),
        (2.1, [2.0, 2.0, 2.0], False),
        (float("nan"), [0.9, 1.0, 1.1], False),
        ("network", ["network", "sampler"], True),
        ("learned (0.05 of the way)", ["learned (0.061 of the way)"], True),
        ("both", ["network", "sampler"], False),
        ("network", [1.0, 2.0], False),
        (True, [False, False], False),
    ],
)
def test_within_five_standard_deviations(
    value: seeds.Leaf, values: list[seeds.Leaf], *, expected: bool
) -> None:
    assert seeds.seen(value, values) == expected


def other_bits(folder: Path) -> None:
    lock = folder / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    md5 = seeds.outputs_of(lock)["data/samples.npy"]
    lock.write_text(text.replace(md5, "0" * 32), encoding="utf-8")


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seeds.judge(folder / "committed.lock") == 0
    other_bits(folder)
    assert seeds.judge(folder / "committed.lock") == 2
    said = capsys.readouterr().out
    total = len(seeds.outputs_of(folder / "dvc.lock"))
    assert f"1 of {total} outputs have other bits:\n  data/samples.npy\n" in said
    assert "NO " not in said
    metrics = read_json(folder / "reports/metrics.json", stage="measure_samples")
    metrics["likelihood"]["kl"]["value"] += 1
    with completing():
        write_json(folder / "reports/metrics.json", metrics)
    assert seeds.judge(folder / "committed.lock") == 1
    assert "  NO  reports/metrics.json: likelihood.kl.value: 1.0" in capsys.readouterr().out


def test_a_stale_or_missing_file_is_refused(folder: Path) -> None:
    other_bits(folder)
    committed = folder / "committed.lock"
    md5 = seeds.outputs_of(committed)["reports/metrics.json"]
    text = committed.read_text(encoding="utf-8")
    committed.write_text(text.replace(md5, "1" * 32), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"belongs to other metrics than committed\.lock; run `make"
    ):
        seeds.judge(committed)
    (folder / "benchmarks/seeds.json").unlink()
    with pytest.raises(UserError, match=r"seeds\.json is missing; make it with `make seeds`"):
        seeds.judge(committed)
