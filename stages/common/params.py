"""Reading params.yaml, and the settings that its names select."""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from typing_extensions import TypeVar

from ddpm.core.errors import UserError
from ddpm.core.params import (
    GuidanceParams,
    Params,
    PointsParams,
    TrainingParams,
    refuse_contradictions,
)
from ddpm.core.settings import PARAMS_FILE, S, configure, validate
from stages.common.yaml_loader import load_yaml

P = TypeVar("P", bound=TrainingParams, default=Params)
# Parameters of further pipelines, by a section that only they have.
_FURTHER: dict[str, type[TrainingParams]] = {
    "guidance": GuidanceParams,
    "measure_points": PointsParams,
}


def load_params(
    path: Path = Path(PARAMS_FILE),
    *,
    kind: type[P] = Params,  # type: ignore[assignment]
) -> P:
    """Read and validate everything that can be checked without the registries of names.

    Args:
        path: The YAML file, relative to the current directory: a copy of the project that DVC makes
            for an experiment reads its own.
        kind: The pipeline's parameters; `TrainingParams` in a stage of several pipelines.

    Raises:
        UserError: If the file is missing, does not parse, or holds a value that is not allowed.
    """
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); run from the folder of the pipeline"
        ) from None
    except Exception as error:
        # A tag on an unsuitable value makes PyYAML raise any error: `!!bool 3` a KeyError.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise UserError(f"{path} is not valid YAML{place}: {problem}; correct it there") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {reprlib.repr(values)} but should be a mapping of parameters"
            f" ({', '.join(Params.model_fields)}); restore it with `git checkout {path}`"
        )
    pipeline = next((_FURTHER[section] for section in _FURTHER if section in values), Params)
    params = validate(pipeline if kind is TrainingParams else kind, values)
    refuse_contradictions(params)
    return cast(P, params)


def select(
    params: TrainingParams, kind: str, registry: Mapping[str, type[S]], name: str | None = None
) -> S:
    """Settings of the entry that a parameter names, with the values of its section.

    Args:
        params: All parameters.
        kind: The parameter, such as "schedule"; its sections are in the plural, `schedules`.
        registry: Settings classes by name.
        name: A name to take instead of the parameter's value.

    Raises:
        UserError: If the name is unknown, or its section is missing or invalid.
    """
    name = getattr(params, kind) if name is None else name
    return configure(kind, name, registry, getattr(params, f"{kind}s"), f"{kind}s")
