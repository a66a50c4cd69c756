"""The studies of guidance and of data sets, at the sizes of their trials or smaller."""

from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import study_datasets, study_guidance
from benchmarks.resumable import Results


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "checkpoints").mkdir()


@pytest.mark.proof
def test_guidance_is_measured_for_exact_denoisers_and_networks_and_shown_in_tables() -> None:
    study = study_guidance.TRIAL._replace(
        scales=(3.0,), seeds=range(1), points=8, changes={"data.n_train": 300, "train.steps": 20}
    )
    study_guidance.measure(study)
    results = Results.read(study.file)
    assert set(results.cells) == {"moons, exact", "moons, seed 0"}
    before = study.file.read_bytes()
    study_guidance.measure(study)
    assert study.file.read_bytes() == before
    exact, networks = study_guidance.found(
        study, results, "moons, outer", scale=3.0, kind="cfg", method="flow"
    )
    assert (len(exact), len(networks)) == (1, 1)
    assert exact[0]["to_tilted"][0] == pytest.approx(0.71, abs=0.2)
    control, _ = study_guidance.found(study, results, "moons, outer", kind="true score")
    assert abs(control[0]["to_tilted"][0]) < 0.02
    kinds = study_guidance.kinds_table(study, results)
    for row in ("interval, little noise | flow", "autoguidance | flow", "24 correctors", "true sc"):
        assert row in kinds
    assert "| moons, outer | 3 | network |" in study_guidance.scales_table(study, results)
    assert "moons, null label" in study_guidance.networks_table(study, results)
    figures = study_guidance.draw(study._replace(scales=(3.0,)), results)
    assert figures == {} or set(figures) == {"guidance.png", "guidance_kinds.png"}


@pytest.mark.proof
def test_data_sets_are_measured_and_drawn() -> None:
    study = study_datasets.TRIAL._replace(
        points=50, changes={"data.n_train": 300, "train.steps": 20}
    )
    study_datasets.measure(study)
    results = Results.read(study.file)
    table = study_datasets.table(study, results)
    assert "| `moons` | 0.15 |" in table
    study_datasets.present(study)
    assert study.figure.exists()
