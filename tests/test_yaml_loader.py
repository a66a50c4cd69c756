"""YAML is read as DVC reads it."""

import math

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.yaml_loader import load_yaml

# Those where PyYAML alone differs from DVC, and those where both agree.
SCALARS = [
    *["2e-05", "2e-5", "1e3", "1E3", "2.0e-5", "1.", ".5", "-.5", "+.5", ".5e3", ".5e-3", "-1e3"],
    *["017", "0o17", "08", "0x1F", "0b11", "1_000", "-0", "+1", "0", "1:30", "1:30.5", "1e", "e3"],
    *["yes", "no", "on", "off", "y", "N", "true", "True", "TRUE", "tRUE", "false", "~", "null"],
    *["Null", "NULL", "", ".inf", "-.inf", ".Inf", ".nan", ".NaN", "nan", "inf", "abc", "'1'"],
    *['"2e-05"', "1 2 3", "5 8 10", "-", "+", ".", "_1", "1_", "0x", "0o8", "0b2", "1.2.3"],
]


def same(first: object, second: object) -> bool:
    if isinstance(first, float) and math.isnan(first):
        return isinstance(second, float) and math.isnan(second)
    return type(first) is type(second) and first == second


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_scalar_is_what_it_is_for_dvc(scalar: str) -> None:
    text = f"a: {scalar}\n"
    try:
        expected = parse_yaml(text, "params.yaml")["a"]
    except Exception:
        with pytest.raises((yaml.YAMLError, ValueError)):
            load_yaml(text)
        return
    assert same(load_yaml(text)["a"], expected)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text("0123456789+-._eExobinfaNyYtrue~", min_size=1, max_size=6))
def test_any_short_scalar_is_what_it_is_for_dvc(scalar: str) -> None:
    text = f"a: {scalar}\n"
    try:
        expected = parse_yaml(text, "params.yaml")
    except Exception:
        return
    assert same(load_yaml(text)["a"], expected["a"])


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: {b: 1, b: 1}\n", "1: a\n1: b\n"])
def test_a_duplicate_key_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match="occurs twice") as refused:
        load_yaml(text)
    assert refused.value.problem_mark is not None
