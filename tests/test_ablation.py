from pathlib import Path

import pytest
from conftest import write_params

from benchmarks import ablation
from benchmarks.ablation import VARIANTS, measure, table
from benchmarks.resumable import Results
from stages.common.params import load_params


def test_the_table_compares_means_over_seeds_with_the_shipped_recipe() -> None:
    cells = {
        f"{name}, seed {seed}": {"kl": (1 + k) * (0.002 + 0.001 * seed)}
        for k, name in enumerate(VARIANTS)
        for seed in range(3)
    }
    rows = table(Results(Path("ablation.json"), {}, cells)).splitlines()[2:]
    assert rows[0] == "| as shipped | 0.0030, sd 0.0010 | 1.0 |"
    assert rows[2] == "| 10,000 points | 0.0090, sd 0.0030 | 3.0 |"
    assert len(rows) == len(VARIANTS)


def test_a_variant_is_trained_and_measured_and_not_again(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, small)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation, "_SEEDS", range(1))
    monkeypatch.setattr(ablation, "_POINTS", 20)
    changes = {"as shipped": {}, "whole t": {"loss.integer_times": True, "data.n_train": 50}}
    monkeypatch.setattr(ablation, "VARIANTS", changes)
    monkeypatch.setattr(ablation, "_FILE", tmp_path / "ablation.json")
    measure(load_params())
    results = Results.read(tmp_path / "ablation.json")
    shipped, changed = (results.cells[f"{name}, seed 0"]["kl"] for name in changes)
    assert shipped != changed
    monkeypatch.setattr(ablation, "train_seed", None)
    measure(load_params())
