"""params.yaml as typed, frozen, validated values: the only reader of YAML.

Names that pick a function or class (schedule, sampler, ...) are plain strings here; the module that
owns the kind resolves them with `choose` and `settings`, so that adding one touches no other file.
"""

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ddpm.errors import UserError

PARAMS_FILE = Path("params.yaml")
_LEAST_NOISE = 0.001
# More steps need no optimisation, and their search takes long.
_MOST_OPTIMISED = 50
# Points of all trajectories together, which are held at once.
_MOST_KEPT = 20_000_000


def _number(value: object) -> object:
    """Read the numbers that YAML leaves as text (quoted ones, say), and refuse booleans."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    if isinstance(value, str):
        for convert in (int, float):
            try:
                return convert(value)
            except ValueError:
                continue
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_number)]
Positive = Annotated[Real, Field(gt=0)]
# Of a solver: below, float32 networks are rough; above, nothing is solved.
Tolerance = Annotated[Real, Field(ge=1e-7, le=0.1)]
# Room for any experiment in the plane; a slip of the keyboard must not fill the memory.
Count = Annotated[Integer, Field(ge=1, le=10_000_000)]
# Enough for a standard deviation.
Several = Annotated[Integer, Field(ge=2, le=10_000_000)]


class Settings(BaseModel):
    """Frozen parameters; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _resolved(value: float) -> float:
    # The truth's quadrature needs nodes as dense as the noise is small.
    if 0 < value < _LEAST_NOISE:
        raise ValueError(f"should be 0, or at least {_LEAST_NOISE:g}")
    return value


class Data(Settings):
    """The spiral's points: noise is the standard deviation around the curve, in data units."""

    noise: Annotated[Real, AfterValidator(_resolved), Field(ge=0, le=10)]
    n_train: Several
    n_test: Several


class Diffusion(Settings):
    """T is the number of steps from data (t = 0) to noise (t = T), with or without signal at T."""

    T: Annotated[Integer, Field(ge=1, le=100_000)]
    zero_terminal_snr: bool


class Model(Settings):
    """Size of the network; scales are standard deviations of random frequencies."""

    width: Annotated[Integer, Field(ge=2, le=8192)]
    blocks: Annotated[Integer, Field(ge=0, le=64)]
    fourier_features: Annotated[Integer, Field(ge=0, le=8192)]
    fourier_scale: Annotated[Positive, Field(le=1000)]
    time_features: Annotated[Integer, Field(ge=1, le=8192)]


class Train(Settings):
    """Optimisation: AdamW with warm-up, cosine decay, clipping and an average of the weights."""

    steps: Count
    batch: Count
    lr: Annotated[Positive, Field(le=10)]
    warmup: Annotated[Integer, Field(ge=0)]
    weight_decay: Annotated[Real, Field(ge=0, le=10)]
    ema_decay: Annotated[Real, Field(ge=0, lt=1)]
    grad_clip: Positive
    log_every: Count


class Sample(Settings):
    """The reverse process: n points in blocks of `block`, following `steps` of the T moments."""

    n: Several
    steps: Count
    spacing: str
    block: Count
    trajectories: Count
    frames: Annotated[Integer, Field(ge=2, le=10_000)]


class Evaluate(Settings):
    """Measurements: how many true points, pairs of true sets, directions of the sliced distance."""

    null_pairs: Annotated[Integer, Field(ge=2, le=1000)]
    directions: Annotated[Integer, Field(ge=1, le=10_000)]
    n_denoising: Several
    n_likelihood: Several
    n_exact: Several
    n_memory: Several
    tolerance: Tolerance
    density_grid: Annotated[Integer, Field(ge=2, le=1000)]


def _numbers(value: object) -> object:
    """Read "5 8 10", or one number, as numbers: DVC rewrites lists, not text."""
    text = "" if isinstance(value, bool | list | dict) else str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,4}( +[1-9][0-9]{0,4})*", text.strip()):
        raise ValueError("should be whole numbers from 1 to 99999 with spaces between them")
    return tuple(int(word) for word in text.split())


Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers)]


def _few(values: tuple[int, ...]) -> tuple[int, ...]:
    if max(values) > _MOST_OPTIMISED:
        raise ValueError(f"should be at most {_MOST_OPTIMISED} each")
    return values


class Optimise(Settings):
    """Spacings that minimise a sampler's error: for which sampler and steps, on how many points."""

    sampler: str
    steps: Annotated[Numbers, AfterValidator(_few)]
    n: Annotated[Integer, Field(ge=10, le=100_000)]
    tolerance: Tolerance


class Compare(Settings):
    """Samplers beside each other: points of each, and cells "sampler/spacing" to evaluations.

    The exact denoiser is asked up to `exact_up_to` times; beyond, its cost is not worth it.
    """

    n: Annotated[Integer, Field(ge=2, le=100_000)]
    exact_up_to: Count
    cells: dict[str, Numbers]


class Attribute(Settings):
    """Where the error comes from: points of each arm, tolerance of the converged solver."""

    n: Several
    tolerance: Tolerance


def _leaf(value: object) -> object:
    # Aliases make a tree that is small in YAML and endless to whoever walks it.
    if isinstance(value, dict | list):
        raise ValueError("should be a number or a name")
    return value


Sections = dict[str, dict[str, Annotated[Any, AfterValidator(_leaf)]]]


class Params(Settings):
    """All of params.yaml."""

    seed: Annotated[Integer, Field(ge=0, le=2**63 - 1)]
    schedule: str
    sampler: str
    prediction: str
    device: str
    data: Data
    diffusion: Diffusion
    schedules: Sections
    samplers: Sections
    model: Model
    train: Train
    sample: Sample
    evaluate: Evaluate
    attribute: Attribute
    optimise: Optimise
    compare: Compare


S = TypeVar("S", bound=Settings)
V = TypeVar("V")


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and validate all that can be known without the registries of names.

    Args:
        path: The YAML file, relative to the current directory: a copy of the project that DVC makes
            for an experiment reads its own.

    Raises:
        UserError: If the file is missing, does not parse, or holds a value that is not allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); run from the project's root"
        ) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path} is not valid YAML{place}: {problem}; correct it there") from None
    except Exception as error:
        # What its tags are put on may make ruamel.yaml raise anything: `!!bool 3` a KeyError.
        raise UserError(
            f"{path} is not valid YAML: {_first_line(error)}; correct it there"
        ) from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {reprlib.repr(values)} but should be a mapping of parameters"
            f" ({', '.join(Params.model_fields)}); restore it with `git checkout {path}`"
        )
    params = _validate(Params, values, prefix=())
    _check_sizes(params)
    return params


def settings(parameter: str, kind: type[S], values: Mapping[str, Any]) -> S:
    """Validate the section `parameter` (such as "schedules.linear") as a `kind`.

    Raises:
        UserError: If a value is unknown, missing or not allowed.
    """
    return _validate(kind, values, prefix=tuple(parameter.split(".")))


def choose(parameter: str, name: str, registry: Mapping[str, V]) -> V:
    """Look up the choice that `parameter` names.

    Raises:
        UserError: If there is no such choice.
    """
    if name not in registry:
        raise UserError(
            f"{parameter} is {reprlib.repr(name)} but should be one of {', '.join(registry)};"
            f" change {parameter} in {PARAMS_FILE}"
        )
    return registry[name]


def section(parameter: str, name: str, sections: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of the choice `name` in a mapping of sections such as `schedules`.

    Raises:
        UserError: If the section is missing.
    """
    if name not in sections:
        raise UserError(f"{parameter}.{name} is missing; add it to {PARAMS_FILE}")
    return sections[name]


def validate_sections(
    parameter: str, sections: Mapping[str, dict[str, Any]], registry: Mapping[str, type[Settings]]
) -> None:
    """Validate every section of a mapping such as `schedules`, not only the one in use.

    Raises:
        UserError: If a section is unknown or missing, or holds a value that is not allowed.
    """
    for name in sections:
        if name not in registry:
            raise UserError(
                f"{parameter}.{name} is not a parameter (allowed here: {', '.join(registry)});"
                f" remove it from {PARAMS_FILE}"
            )
    for name, kind in registry.items():
        settings(f"{parameter}.{name}", kind, section(parameter, name, sections))


def _validate(kind: type[S], values: Mapping[str, Any], prefix: tuple[str, ...]) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(_describe(kind, dict(problems[0]), prefix) + more) from None


def _describe(kind: type[Settings], problem: dict[str, Any], prefix: tuple[str, ...]) -> str:
    """One line for one of pydantic's problems."""
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
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] in {"model_type", "dict_type"}:
        allowed = "should be a mapping of parameters"
    given = reprlib.repr(problem["input"])
    return f"{name} is {given} but {allowed}; change {name} in {PARAMS_FILE}"


def _check_sizes(params: Params) -> None:
    sample, train, data, evaluate = params.sample, params.train, params.data, params.evaluate
    if sample.steps > params.diffusion.T:
        raise UserError(
            f"sample.steps is {sample.steps} but the schedule has T = {params.diffusion.T};"
            f" lower sample.steps in {PARAMS_FILE}"
        )
    if sample.trajectories > sample.n:
        raise UserError(
            f"sample.trajectories is {sample.trajectories} but sample.n is {sample.n};"
            f" lower sample.trajectories in {PARAMS_FILE}"
        )
    if sample.trajectories * sample.frames > _MOST_KEPT:
        raise UserError(
            f"sample.trajectories is {sample.trajectories} and sample.frames {sample.frames} but"
            f" their product should be at most {_MOST_KEPT}; lower one of them in {PARAMS_FILE}"
        )
    if evaluate.n_exact > evaluate.n_likelihood:
        raise UserError(
            f"evaluate.n_exact is {evaluate.n_exact} but evaluate.n_likelihood is"
            f" {evaluate.n_likelihood}; lower evaluate.n_exact in {PARAMS_FILE}"
        )
    if evaluate.n_memory > min(data.n_train, data.n_test):
        raise UserError(
            f"evaluate.n_memory is {evaluate.n_memory} but data.n_train is {data.n_train} and"
            f" data.n_test is {data.n_test}; lower evaluate.n_memory in {PARAMS_FILE}"
        )
    if train.warmup > train.steps:
        raise UserError(
            f"train.warmup is {train.warmup} but train.steps is {train.steps};"
            f" lower train.warmup in {PARAMS_FILE}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
