from pathlib import Path

import pytest
from conftest import ROOT, changed, shipped, write_params

from ddpm.errors import UserError
from ddpm.params import load, validate_sections
from ddpm.samplers import SAMPLERS
from ddpm.schedules import SCHEDULES


def test_the_shipped_parameters_are_valid() -> None:
    params = load(ROOT / "params.yaml")
    assert params.schedule == "linear"
    assert params.data.noise == 0.02


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
    path = tmp_path / "params.yaml"
    shipped_text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(shipped_text.replace("lr: 0.004", f"lr: {text}"), encoding="utf-8")
    assert load(path).train.lr == value


@pytest.mark.parametrize("text", ["512", "5.12e2", "512.0", "'512'", "0x200", "512e0"])
def test_a_whole_number_is_read_however_yaml_writes_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    shipped_text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(shipped_text.replace("batch: 512", f"batch: {text}"), encoding="utf-8")
    assert load(path).train.batch == 512


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.lr", "fast", r"train\.lr is 'fast' but should be a valid number"),
        ("train.lr", True, r"train\.lr is True but should be a number"),
        ("train.lr", -1.0, r"train\.lr is -1\.0 but should be greater than 0; change train\.lr in"),
        ("train.lr", float("nan"), r"train\.lr is nan but should be"),
        ("train.lr", float("inf"), r"train\.lr is inf but should be"),
        ("train.lr", [1, 2], r"train\.lr is \[1, 2\] but should be a valid number"),
        ("train.batch", "abc", r"train\.batch is 'abc' but should be a valid integer"),
        ("train.batch", 1.5, r"train\.batch is 1\.5 but should be a valid integer"),
        ("train.batch", 0, r"train\.batch is 0 but should be greater than or equal to 1"),
        ("train.batch", 10**9, r"but should be less than or equal to 10000000"),
        ("data.noise", -0.1, r"data\.noise is -0\.1 but should be greater than or equal to 0"),
        ("data.noise", 1e-4, r"data\.noise is 0\.0001 but should be 0, or at least 0\.001; change"),
        ("optimise.steps", "5 x", r"optimise\.steps is '5 x' but should be whole numbers from 1 "),
        ("compare.cells", 5, r"compare\.cells is 5 but should be a mapping"),
        ("seed", -1, r"seed is -1 but should be greater than or equal to 0"),
        ("diffusion.T", 0, r"diffusion\.T is 0 but should be greater than or equal to 1"),
        ("train.lrr", 1, r"train\.lrr is not a parameter \(allowed here: steps, batch, lr,"),
        ("colour", 1, r"colour is not a parameter \(allowed here: seed, schedule,"),
        ("train.lr", None, r"train\.lr is missing; add it to params\.yaml"),
        ("schedule", None, r"schedule is missing; add it to params\.yaml"),
        ("train", 5, r"train is 5 but should be a mapping of parameters"),
        ("schedules", "cosine", r"schedules is 'cosine' but should be a mapping"),
        ("schedule", 3, r"schedule is 3 but should be a valid string"),
        ("sample.steps", 1500, r"sample\.steps is 1500 but the schedule has T = 1000; lower"),
        ("sample.trajectories", 10**6, r"sample\.trajectories is 1000000 but sample\.n is 10000"),
        (
            "evaluate.tolerance",
            0,
            r"evaluate\.tolerance is 0 but should be greater than or equal to",
        ),
        (
            "attribute.tolerance",
            1,
            r"attribute\.tolerance is 1 but should be less than or equal to",
        ),
        (
            "evaluate.n_exact",
            30_000,
            r"n_exact is 30000 but evaluate\.n_likelihood is 25000; lower",
        ),
        ("evaluate.n_memory", 20_000, r"n_memory is 20000 but data\.n_train is 10000 and data\.n"),
        ("train.warmup", 10**6, r"train\.warmup is 1000000 but train\.steps is 6000; lower"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_one_line(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    path = write_params(tmp_path, changed(shipped(), **{name: value}))
    with pytest.raises(UserError, match=message) as refused:
        load(path)
    assert "\n" not in str(refused.value)
    assert "params.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1\n", r"not valid YAML at line 2, column 1: expected ',' or '\]'"),
        (b"seed: 1\nseed: 2\n", r"not valid YAML at line 2, column 1: .*duplicate key"),
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
        load(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .*run from the project's root"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("schedules.linaer", {}, r"schedules\.linaer is not a parameter \(allowed here: linear,"),
        ("schedules.cosine", None, r"schedules\.cosine is missing; add it"),
        ("schedules.cosine.s", None, r"schedules\.cosine\.s is missing; add it"),
        ("schedules.cosine.z", 1, r"schedules\.cosine\.z is not a parameter \(allowed here: s, be"),
        ("schedules.cosine.beta_max", 1.0, r"beta_max is 1\.0 but should be less than 1; change"),
        ("schedules.linear.beta_end", 0, r"beta_end is 0 but should be greater than 0; change"),
        ("schedules.sigmoid.end", -4, r"sigmoid is .* but start should be less than end"),
        ("samplers.ddim.eta", 1.5, r"samplers\.ddim\.eta is 1\.5 but should be less than or equal"),
        (
            "samplers.ddpm.variance",
            "big",
            r"variance is 'big' but should be 'posterior', 'beta' or 'an",
        ),
    ],
)
def test_sections_that_are_not_in_use_are_validated_too(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    params = load(write_params(tmp_path, changed(shipped(), **{name: value})))
    with pytest.raises(UserError, match=message):  # noqa: PT012 - either may be at fault
        validate_sections("schedules", params.schedules, SCHEDULES)
        validate_sections("samplers", params.samplers, SAMPLERS)
