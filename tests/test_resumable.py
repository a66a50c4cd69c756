from pathlib import Path

import pytest
from conftest import shipped

from benchmarks.resumable import Results, training_settings
from ddpm.core.errors import UserError
from ddpm.core.params import Params


def test_an_interrupted_study_keeps_what_it_has_measured(tmp_path: Path) -> None:
    path, settings = tmp_path / "study.json", {"train": {"steps": 5}}
    results = Results.resume(path, settings)
    assert results.cells == {}
    results.add("linear/v/0", {"kl": {"value": 0.25, "se": 0.125}})
    again = Results.resume(path, settings)
    assert again == results
    again.add("linear/v/1", {"kl": {"value": 0.5, "se": 0.125}})
    assert list(Results.read(path).cells) == ["linear/v/0", "linear/v/1"]
    assert list(tmp_path.iterdir()) == [path]


def test_results_at_other_settings_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    Results(path, {"train": {"steps": 5}}, {}).add("cell", {})
    message = r"study\.json was measured with train\.steps = 5, which is now 6; remove the file"
    with pytest.raises(UserError, match=message):
        Results.resume(path, {"train": {"steps": 6}})
    with pytest.raises(UserError, match=r"measured with train\.steps = 5, which is now None"):
        Results.resume(path, {})


def test_a_missing_or_damaged_file_gives_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    with pytest.raises(UserError, match=r"study\.json is missing; make it with `make study`"):
        Results.read(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"study\.json cannot be used \(.*\); make it with"):
        Results.read(path)


def test_settings_are_those_that_determine_a_network() -> None:
    params = Params.model_validate(shipped())
    settings = training_settings(params, {"schedule", "data"})
    assert settings["loss"] == shipped()["loss"]
    varied = {"seed", "schedule", "data", "sample", "measure_model", "device"}
    assert not settings.keys() & varied
    assert {"train", "networks", "schedules", "diffusion", "datasets"} <= settings.keys()
