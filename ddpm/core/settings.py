"""Validated settings: number types, the base class, and the choice of a class by its name.

A name such as `schedule: cosine` selects a settings class from a registry, and the section
`schedules.cosine` holds its values. A room owns the classes and the registry of its kind, so that
adding one touches no other room.
"""

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ddpm.core.errors import UserError

PARAMS_FILE = "params.yaml"


def _parse_number(value: object) -> object:
    """Convert a number that YAML left as text, such as a quoted one; refuse booleans."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    if isinstance(value, str):
        for convert in (int, float):
            try:
                return convert(value)
            except ValueError:
                continue
    return value


Real = Annotated[float, BeforeValidator(_parse_number), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_parse_number)]
Positive = Annotated[Real, Field(gt=0)]
# Below 1e-7 the rounding of float32 networks dominates. Above 0.1 the result is not a solution.
Tolerance = Annotated[Real, Field(ge=1e-7, le=0.1)]
# More than any experiment in the plane needs, and arrays of this size still fit into memory.
Count = Annotated[Integer, Field(ge=1, le=10_000_000)]
# For sizes of samples whose standard deviation is computed.
AtLeastTwo = Annotated[Integer, Field(ge=2, le=10_000_000)]


class Settings(BaseModel):
    """Base class of all settings: validated, frozen, and without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)
V = TypeVar("V")


def validate(kind: type[S], values: Mapping[str, Any], section: str = "") -> S:
    """Validate plain values as settings of a kind.

    Args:
        kind: The settings class.
        values: Values by name.
        section: Their section of params.yaml, such as "schedules.linear", for the message.

    Raises:
        UserError: If a name is unknown, or a value is missing or not allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        prefix = section.split(".") if section else []
        raise UserError(_describe(kind, dict(problems[0]), prefix) + more) from None


def choose(parameter: str, name: str, registry: Mapping[str, V]) -> V:
    """Look up the entry of a registry that a parameter names.

    Raises:
        UserError: If there is no such entry; the message lists the names.
    """
    if name not in registry:
        raise UserError(
            f"{parameter} is {reprlib.repr(name)} but should be one of {', '.join(registry)};"
            f" change {parameter} in {PARAMS_FILE}"
        )
    return registry[name]


def configure(
    parameter: str,
    name: str,
    registry: Mapping[str, type[S]],
    sections: Mapping[str, Mapping[str, Any]],
    section_name: str,
) -> S:
    """Validate the section that a parameter names, as settings of the class of that name.

    Args:
        parameter: The parameter that holds the name, such as "schedule".
        name: Its value, such as "cosine".
        registry: Settings classes by name.
        sections: Values of all sections of this kind, by name.
        section_name: Name of the mapping of sections, such as "schedules".

    Raises:
        UserError: If the name is unknown, or its section is missing or invalid.
    """
    kind = choose(parameter, name, registry)
    if name not in sections:
        raise UserError(f"{section_name}.{name} is missing; add it to {PARAMS_FILE}")
    return validate(kind, sections[name], f"{section_name}.{name}")


def validate_sections(
    section_name: str,
    sections: Mapping[str, Mapping[str, Any]],
    registry: Mapping[str, type[Settings]],
) -> None:
    """Validate every section of a mapping such as `schedules`, whether it is selected or not.

    Raises:
        UserError: If a section has an unknown name or an invalid value.
    """
    for name, values in sections.items():
        if name not in registry:
            raise UserError(
                f"{section_name}.{name} is not a parameter (allowed here: {', '.join(registry)});"
                f" remove it from {PARAMS_FILE}"
            )
        validate(registry[name], values, f"{section_name}.{name}")


def _describe(kind: type[Settings], problem: dict[str, Any], prefix: list[str]) -> str:
    """Write one of pydantic's problems as one line that names object, value and remedy."""
    location = [str(part) for part in problem["loc"]]
    name = ".".join([*prefix, *location])
    if problem["type"] == "missing":
        return f"{name} is missing; add it to {PARAMS_FILE}"
    if problem["type"] == "extra_forbidden":
        parent = kind
        for part in location[:-1]:
            parent = parent.model_fields[part].annotation  # type: ignore[assignment]
        allowed = ", ".join(parent.model_fields) or "nothing"
        return f"{name} is not a parameter (allowed here: {allowed}); remove it from {PARAMS_FILE}"
    requirement = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] in {"model_type", "dict_type"}:
        requirement = "should be a mapping of parameters"
    given = reprlib.repr(problem["input"])
    return f"{name} is {given} but {requirement}; change {name} in {PARAMS_FILE}"
