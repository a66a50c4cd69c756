import sys
from pathlib import Path

import pytest
from conftest import shipped

from benchmarks.resumable import Results, run_study, training_settings
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
    with pytest.raises(
        UserError, match=r"study\.json is missing; make it with `python -m benchmarks\.study`"
    ):
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


def test_a_study_is_measured_and_presented_as_the_command_line_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def run(*arguments: str, failed: list[str] | None = None) -> None:
        def measure(study: str) -> list[str] | None:
            calls.append(f"measure {study}")
            return failed

        def present(study: str) -> None:
            calls.append(f"present {study}")

        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        run_study("A study.", "full", "trial", measure, present)

    run()
    run("--trial")
    run("--table")
    assert calls == [
        *("measure full", "present full", "measure trial", "present trial", "present full")
    ]
    with pytest.raises(SystemExit, match="error: 2 experiments failed; the same command tries"):
        run(failed=["a", "b"])
    with pytest.raises(SystemExit, match="2"):
        run("--tabel")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted; the same command goes on from here"),
        (UserError("no such file"), "error: no such file"),
    ],
)
def test_a_study_that_stops_says_why(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_: str) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["study"])
    with pytest.raises(SystemExit, match=message):
        run_study("A study.", "full", "trial", measure, lambda _: None)
