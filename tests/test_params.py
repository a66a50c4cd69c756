from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, changed, shipped, write_params

from ddpm.core.errors import UserError
from ddpm.core.params import Params
from ddpm.diffusion.schedules import SCHEDULES, Cosine, Linear
from stages.common.params import load_params, select


def test_the_shipped_parameters_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.schedule == "linear"
    assert params.datasets["spiral"] == {"noise": 0.02}


def with_text(folder: Path, shipped_text: str, text: str) -> Path:
    """The shipped file, as text, with one line changed."""
    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert shipped_text in content
    path = folder / "params.yaml"
    path.write_text(content.replace(shipped_text, text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("2e-05", 2e-05),
        ("2.0e-5", 2e-05),
        ("0.002", 0.002),
        (".002", 0.002),
        ("2E-3", 0.002),
        ("'2e-3'", 0.002),
        ('"0.002"', 0.002),
        ("1", 1.0),
    ],
)
def test_a_number_is_read_however_yaml_writes_it(tmp_path: Path, text: str, value: float) -> None:
    assert load_params(with_text(tmp_path, "lr: 0.006", f"lr: {text}")).train.lr == value


@pytest.mark.parametrize("text", ["512", "5.12e2", "512.0", "'512'", "0x200", "512e0", "0o1000"])
def test_a_whole_number_is_read_however_yaml_writes_it(tmp_path: Path, text: str) -> None:
    assert load_params(with_text(tmp_path, "batch: 512", f"batch: {text}")).train.batch == 512


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.lr", "fast", r"train\.lr is 'fast' but should be a valid number"),
        ("train.lr", None, r"train\.lr is missing; add it to params\.yaml"),
        ("sample.steps", 1500, r"sample\.steps is 1500 but the schedule has T = 1000; lower"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_one_line(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    path = write_params(tmp_path, changed(shipped(), **{name: value}))
    with pytest.raises(UserError, match=message) as refused:
        load_params(path)
    assert "\n" not in str(refused.value)
    assert "params.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1\n", r"not valid YAML at line 2, column 1: expected ',' or '\]'"),
        (b"seed: 1\nseed: 2\n", r"not valid YAML at line 2, column 1: the key 'seed' occurs twice"),
        (b"a: b: c\n", r"not valid YAML at line 1"),
        (b"\tseed: 1\n", r"not valid YAML at line 1"),
        (b"seed: \xff\xfe\n", r"not valid YAML: .*codec can't decode"),
        (b"[" * 5000, r"not valid YAML"),
        (b"", r"holds None but should be a mapping of parameters"),
        (b"- 1\n- 2\n", r"holds \[1, 2\] but should be a mapping of parameters"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load_params(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .*run from the folder of the pipeline"):
        load_params(tmp_path / "params.yaml")


def test_a_section_that_is_not_in_use_may_be_missing(tmp_path: Path) -> None:
    path = write_params(tmp_path, changed(shipped(), **{"schedules.cosine": None}))
    params = load_params(path)
    assert isinstance(select(params, "schedule", SCHEDULES), Linear)
    with pytest.raises(UserError, match=r"schedules\.cosine is missing; add it to params\.yaml"):
        select(params, "schedule", SCHEDULES, "cosine")


def test_the_selected_entry_is_that_of_the_parameter_unless_another_is_named(
    small: dict[str, Any],
) -> None:
    params = Params.model_validate(changed(small, schedule="cosine"))
    assert select(params, "schedule", SCHEDULES) == Cosine(s=0.008, beta_max=0.999)
    assert isinstance(select(params, "schedule", SCHEDULES, "linear"), Linear)
