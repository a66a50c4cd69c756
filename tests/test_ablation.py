from pathlib import Path

import pytest
from conftest import write_params

from benchmarks import ablation
from benchmarks.ablation import FULL, TRIAL, VARIANTS, Study, measure, table
from benchmarks.resumable import Results
from ddpm.core.errors import UserError


def cell(kl: float) -> dict[str, dict[str, float]]:
    return {"kl": {"value": kl, "se": 0.1}}


def test_the_table_compares_each_variant_with_the_shipped_recipe_on_the_same_seeds() -> None:
    cells = {
        f"{name}, seed {seed}": cell(0.002 + 0.001 * seed + k * 0.001 * (2 + seed))
        for k, name in enumerate(VARIANTS)
        for seed in range(3)
    }
    rows = table(FULL, Results(Path("ablation.json"), {}, cells)).splitlines()[2:]
    assert rows[0] == "| as shipped | 0.0030, sd 0.0010 |  |"
    assert rows[2] == "| 10,000 points | 0.0090, sd 0.0030 | +0.0060 ± 0.0012 |"
    assert len(rows) == len(VARIANTS)
    del cells["10,000 points, seed 1"]
    rows = table(FULL, Results(Path("ablation.json"), {}, cells)).splitlines()[2:]
    assert len(rows) == len(VARIANTS) - 1


def test_a_variant_is_trained_and_measured_and_not_again(
    small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, small)
    monkeypatch.chdir(tmp_path)
    changes = {"as shipped": {}, "whole t": {"loss.integer_times": True, "data.n_train": 50}}
    study = Study(changes, range(1), {}, 20, 1e-2, tmp_path / "ablation.json")
    measure(study)
    results = Results.read(study.file)
    shipped, changed = (results.cells[f"{name}, seed 0"]["kl"]["value"] for name in changes)
    assert shipped != changed
    monkeypatch.setattr(ablation, "train_seed", None)
    measure(study)
    # Cells of another measurement are not mixed with these.
    with pytest.raises(UserError, match=r"measured with tolerance = 0\.01, which is now 0\.02"):
        measure(study._replace(tolerance=0.02))
    changes["whole t"]["data.n_train"] = 60
    with pytest.raises(UserError, match=r"whole t\.data\.n_train = 50, which is now 60"):
        measure(study)


def test_a_trial_is_not_mistaken_for_the_study() -> None:
    assert TRIAL.file != FULL.file
    assert TRIAL.common
