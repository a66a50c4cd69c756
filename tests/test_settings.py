from collections.abc import Mapping
from typing import Any

import pytest
from conftest import changed, shipped

from ddpm.core.errors import UserError
from ddpm.core.params import Params, TrainSettings, refuse_contradictions
from ddpm.core.settings import Settings, choose, configure, validate, validate_sections
from ddpm.data.datasets import DATASETS
from ddpm.diffusion.schedules import SCHEDULES, Cosine
from ddpm.networks.registry import NETWORKS
from ddpm.sampling.registry import SAMPLERS

REGISTRIES: dict[str, Mapping[str, type[Settings]]] = {
    "datasets": DATASETS,
    "schedules": SCHEDULES,
    "networks": NETWORKS,
    "samplers": SAMPLERS,
}


@pytest.mark.parametrize("lr", [0.002, "0.002", "2e-3", "2E-3", ".002"])
def test_a_number_may_be_given_as_text(lr: object) -> None:
    assert validate(TrainSettings, shipped()["train"] | {"lr": lr}).lr == 0.002


@pytest.mark.parametrize("batch", [512, "512", 512.0])
def test_a_whole_number_may_be_given_as_text_or_float(batch: object) -> None:
    settings = validate(TrainSettings, shipped()["train"] | {"batch": batch})
    assert settings.batch == 512
    assert isinstance(settings.batch, int)


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
        ("data.n_train", 1, r"data\.n_train is 1 but should be greater than or equal to 2"),
        ("optimise_spacings.steps", "5 x", r"steps is '5 x' but should be whole numbers from 1 "),
        ("optimise_spacings.steps", "5 51", r"steps is '5 51' but should be at most 50 each; chan"),
        ("compare_samplers.cells", 5, r"compare_samplers\.cells is 5 but should be a mapping"),
        ("seed", -1, r"seed is -1 but should be greater than or equal to 0"),
        ("diffusion.T", 0, r"diffusion\.T is 0 but should be greater than or equal to 1"),
        ("train.lrr", 1, r"train\.lrr is not a parameter \(allowed here: steps, batch, lr,"),
        ("colour", 1, r"colour is not a parameter \(allowed here: seed, dataset, schedule,"),
        ("train.lr", None, r"train\.lr is missing; add it to params\.yaml"),
        ("schedule", None, r"schedule is missing; add it to params\.yaml"),
        ("train", 5, r"train is 5 but should be a mapping of parameters"),
        ("schedules", "cosine", r"schedules is 'cosine' but should be a mapping"),
        ("schedules.cosine.s", [1], r"schedules\.cosine\.s is \[1\] but should be a number or a n"),
        ("schedule", 3, r"schedule is 3 but should be a valid string"),
        ("sample.steps", 1500, r"sample\.steps is 1500 but the schedule has T = 1000; lower"),
        ("sample.trajectories", 10**6, r"sample\.trajectories is 1000000 but sample\.n is 10000"),
        (
            "measure_model.tolerance",
            0,
            r"measure_model\.tolerance is 0 but should be greater than or equal to",
        ),
        (
            "attribute_error.tolerance",
            1,
            r"attribute_error\.tolerance is 1 but should be less than or equal to",
        ),
        (
            "measure_model.n_exact",
            30_000,
            r"n_exact is 30000 but measure_model\.n_likelihood is 25000; lower",
        ),
        ("train.warmup", 10**6, r"train\.warmup is 1000000 but train\.steps is 14000; lower"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_one_line(
    name: str, value: object, message: str
) -> None:
    values = changed(shipped(), **{name: value})
    with pytest.raises(UserError, match=message) as refused:
        refuse_contradictions(validate(Params, values))
    assert "\n" not in str(refused.value)
    assert "params.yaml" in str(refused.value)


def test_more_recorded_points_than_fit_into_memory_are_refused() -> None:
    values = changed(shipped(), **{"sample.trajectories": 2001, "sample.frames": 10_000})
    with pytest.raises(
        UserError, match=r"2001 and sample\.frames 10000 but their product should be"
    ):
        refuse_contradictions(validate(Params, values))
    refuse_contradictions(validate(Params, changed(values, **{"sample.trajectories": 2000})))


def test_further_problems_are_counted() -> None:
    values = changed(shipped(), **{"train.lr": 0, "train.batch": 0, "seed": -1})
    with pytest.raises(UserError, match=r"^seed is -1 .* \(and 2 more\)$"):
        validate(Params, values)


@pytest.mark.parametrize("value", ["5", "5 8 10", " 5  8 10 ", 5])
def test_several_numbers_are_text_with_spaces_or_one_number(value: object) -> None:
    params = validate(Params, changed(shipped(), **{"optimise_spacings.steps": value}))
    assert params.optimise_spacings.steps == tuple(int(word) for word in str(value).split())


@pytest.mark.parametrize(
    "value", ["", "0", "05", "5,8", "5\t8", "100000", "1.5", 1.5, True, [5, 8]]
)
def test_anything_but_whole_numbers_with_spaces_between_them_is_refused(value: object) -> None:
    values = changed(shipped(), **{"compare_samplers.cells": {"ddpm/trailing": value}})
    with pytest.raises(UserError, match=r"cells\.ddpm/trailing is .* but should be whole numbers"):
        validate(Params, values)


def test_settings_are_frozen() -> None:
    settings = validate(Cosine, {"s": 0.008, "beta_max": 0.999})
    with pytest.raises(ValueError, match="frozen"):
        settings.s = 0.1


def test_the_named_entry_is_chosen() -> None:
    assert choose("schedule", "cosine", SCHEDULES) is Cosine


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError,
        match=r"^schedule is 'cosinus' but should be one of linear, .*cosine, .*; change"
        r" schedule in params\.yaml$",
    ):
        choose("schedule", "cosinus", SCHEDULES)


def test_the_named_entry_is_configured_by_its_section() -> None:
    sections = {"linear": {}, "cosine": {"s": 0.1, "beta_max": 0.5}}
    settings = configure("schedule", "cosine", SCHEDULES, sections, "schedules")
    assert settings == Cosine(s=0.1, beta_max=0.5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"linear": {}}, r"^schedules\.cosine is missing; add it to params\.yaml$"),
        (
            {"cosine": {"s": 0.1}},
            r"^schedules\.cosine\.beta_max is missing; add it to params\.yaml$",
        ),
        ({"cosine": {"s": 2, "beta_max": 0.5}}, r"^schedules\.cosine\.s is 2 but should be less "),
    ],
)
def test_a_section_that_is_missing_or_invalid_is_refused(
    sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        configure("schedule", "cosine", SCHEDULES, sections, "schedules")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [(kind, name, f"{kind}.{name}") for kind, registry in REGISTRIES.items() for name in registry],
)
def test_every_entry_has_a_section_that_is_valid_and_refuses_unknown_names(
    kind: str, name: str, message: str
) -> None:
    section = shipped()[kind][name]
    validate_sections(kind, {name: section}, REGISTRIES[kind])
    with pytest.raises(UserError, match=rf"^{message}\.colour is not a parameter \(allowed here: "):
        validate_sections(kind, {name: section | {"colour": 1}}, REGISTRIES[kind])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("schedules.linaer", {}, r"schedules\.linaer is not a parameter \(allowed here: linear,"),
        ("schedules.cosine.s", None, r"schedules\.cosine\.s is missing; add it"),
        ("schedules.cosine.z", 1, r"schedules\.cosine\.z is not a parameter \(allowed here: s, be"),
        ("schedules.cosine.beta_max", 1.0, r"beta_max is 1\.0 but should be less than 1; change"),
        ("schedules.linear.beta_end", 0, r"beta_end is 0 but should be greater than 0; change"),
        ("schedules.sigmoid.end", -4, r"sigmoid is .* but start should be less than end"),
        ("samplers.ddim.eta", 1.5, r"samplers\.ddim\.eta is 1\.5 but should be less than or equal"),
        ("samplers.ddpm.variance", "big", r"is 'big' but should be 'posterior', 'beta' or 'an"),
        ("datasets.spiral.noise", -0.1, r"noise is -0\.1 but should be greater than or equal to 0"),
        ("datasets.spiral.noise", 1e-4, r"noise is 0\.0001 but should be 0, or at least 0\.001; "),
        ("networks.mlp.width", 1, r"networks\.mlp\.width is 1 but should be greater than or equal"),
    ],
)
def test_sections_that_are_not_in_use_are_validated_too(
    name: str, value: object, message: str
) -> None:
    kind = name.split(".")[0]
    sections = changed(shipped(), **{name: value})[kind]
    with pytest.raises(UserError, match=message) as refused:
        validate_sections(kind, sections, REGISTRIES[kind])
    assert "params.yaml" in str(refused.value)
