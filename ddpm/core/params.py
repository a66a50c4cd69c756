"""The parameters of the pipeline as pydantic models: one model for each section of params.yaml.

The sections `datasets`, `schedules`, `networks` and `samplers` are plain values here. The room that
owns such a kind defines its models and registers them by name; `ddpm.core.settings.configure`
validates a section as the model that a name selects.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from ddpm.core.errors import UserError
from ddpm.core.settings import (
    PARAMS_FILE,
    AtLeastTwo,
    Count,
    Integer,
    Positive,
    Real,
    Settings,
    Tolerance,
)

# With more steps the spacing matters little, and optimising it takes long.
_MAX_OPTIMISED_STEPS = 50
# Recorded points, trajectories times frames: they are held in memory together.
_MAX_TRAJECTORY_POINTS = 20_000_000


class DataSettings(Settings):
    """Numbers of training and of test points."""

    n_train: AtLeastTwo
    n_test: AtLeastTwo


class DiffusionSettings(Settings):
    """Number of steps T from data (t = 0) to noise (t = T), and whether no signal is left at T."""

    T: Annotated[Integer, Field(ge=1, le=100_000)]
    zero_terminal_snr: bool


class LossSettings(Settings):
    """What a training batch holds: how its times are drawn, and what its targets are.

    `neighbours` is the number of training points over which each target is averaged; 1 is the
    textbook's target. Times have a density proportional to t^-time_power; 0 is uniform. They are
    whole, 1 ... T, with `integer_times`, and otherwise real, in (0, T].

    Example:
        >>> LossSettings(neighbours=1, time_power=0, integer_times=True).neighbours
        1
    """

    neighbours: Annotated[Integer, Field(ge=1, le=4096)]
    time_power: Annotated[Real, Field(ge=0, le=0.8)]
    integer_times: bool


class TrainSettings(Settings):
    """AdamW with warm-up, cosine decay, gradient clipping, and an average of the weights.

    `log_every` is the number of steps between two rows of the training curve. `drop_label` is the
    probability with which a label is hidden from the network; without it, all are, and the network
    has no input for them.

    Example:
        >>> adamw = {"lr": 4e-3, "warmup": 9, "weight_decay": 0, "grad_clip": 1, "ema_decay": 0.99}
        >>> TrainSettings(steps=1000, batch=512, log_every=100, **adamw).lr
        0.004
    """

    steps: Count
    batch: Count
    lr: Annotated[Positive, Field(le=10)]
    warmup: Annotated[Integer, Field(ge=0)]
    weight_decay: Annotated[Real, Field(ge=0, le=10)]
    ema_decay: Annotated[Real, Field(ge=0, lt=1)]
    grad_clip: Positive
    log_every: Count
    drop_label: Annotated[Real, Field(ge=0, le=1)] | None = None


class SampleSettings(Settings):
    """Samples to draw, and trajectories to record.

    `steps` is the number of denoiser evaluations for each sample, and `block` the number of points
    that are sampled at once. Trajectories are recorded at `frames` times.
    """

    n: AtLeastTwo
    steps: Count
    spacing: str
    block: Count
    trajectories: Count
    frames: Annotated[Integer, Field(ge=2, le=10_000)]


class MeasureModelSettings(Settings):
    """Numbers of true points for each measurement of the model, and the ODE solver's tolerance.

    `n_memory` is an upper limit: smaller sets of training or test points are used as a whole.
    `density_grid` is the number of points along each side of the picture of the density.
    """

    n_denoising: AtLeastTwo
    n_likelihood: AtLeastTwo
    n_exact: AtLeastTwo
    n_memory: AtLeastTwo
    tolerance: Tolerance
    density_grid: Annotated[Integer, Field(ge=2, le=1000)]


class MeasureSamplesSettings(Settings):
    """How samples are measured: at most `n` of them, against true sets of as many points.

    `null_pairs` pairs of true sets give the floor and standard error of each distance; `directions`
    is the number of projections of the sliced Wasserstein distance.
    """

    n: Annotated[Integer, Field(ge=2, le=100_000)]
    null_pairs: Annotated[Integer, Field(ge=2, le=1000)]
    directions: Annotated[Integer, Field(ge=1, le=10_000)]


class AttributeErrorSettings(Settings):
    """The converged solver's `tolerance`, and the samples of each combination: `n`, at most.

    The combination of network and sampler has those of the stage `sample`, the others as many.
    """

    n: AtLeastTwo
    tolerance: Tolerance


def _parse_numbers(value: object) -> object:
    """Convert "5 8 10", or one number, to a tuple.

    Numbers are written as text because DVC rewrites YAML lists.
    """
    text = "" if isinstance(value, bool | list | dict) else str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,4}( +[1-9][0-9]{0,4})*", text.strip()):
        raise ValueError("should be whole numbers from 1 to 99999 with spaces between them")
    return tuple(int(word) for word in text.split())


Numbers = Annotated[tuple[int, ...], BeforeValidator(_parse_numbers)]


def _refuse_many_steps(values: tuple[int, ...]) -> tuple[int, ...]:
    if max(values) > _MAX_OPTIMISED_STEPS:
        raise ValueError(f"should be at most {_MAX_OPTIMISED_STEPS} each")
    return values


class OptimiseSpacingsSettings(Settings):
    """Sampler and numbers of steps whose times are optimised.

    The error is measured on `n` points; for data without noise, against the flow solved to
    `tolerance`. A search takes at most `iterations`.
    """

    sampler: str
    steps: Annotated[Numbers, AfterValidator(_refuse_many_steps)]
    n: Annotated[Integer, Field(ge=10, le=100_000)]
    iterations: Annotated[Integer, Field(ge=0, le=1000)]
    tolerance: Tolerance


class CompareSamplersSettings(Settings):
    """Cells of the comparison: numbers of denoiser evaluations by "sampler/spacing".

    Each takes `n` samples. The exact denoiser is included up to `exact_up_to` evaluations, beyond
    which it takes too long. The density of a deterministic sampler's output is computed at
    `n_density` points, up to `density_up_to` evaluations. The metrics of each cell are also given
    as differences from those of the cell `reference`, with the most evaluations that are listed
    for it.
    """

    n: Annotated[Integer, Field(ge=2, le=100_000)]
    exact_up_to: Count
    n_density: AtLeastTwo
    density_up_to: Count
    reference: str
    cells: dict[str, Numbers]


def _refuse_nesting(value: object) -> object:
    # A small file with nested YAML aliases could otherwise expand to an enormous structure.
    if isinstance(value, dict | list):
        raise ValueError("should be a number or a name")
    return value


Sections = dict[str, dict[str, Annotated[Any, AfterValidator(_refuse_nesting)]]]


class GuideSettings(Settings):
    """The worse network of autoguidance: its width, and for how many steps it is trained."""

    width: Annotated[Integer, Field(ge=2, le=8192)]
    steps: Count


class GuidanceSettings(Settings):
    """Kind of guidance, the label, and the values that the kinds use.

    `scale` is 1 without guidance. The kind `interval` uses it between the noise levels `low` and
    `high` (sigma / sqrt(alpha_bar), model units), and the scale `outside` elsewhere.
    """

    kind: str
    label: Annotated[Integer, Field(ge=0)]
    scale: Annotated[Real, Field(ge=0, le=100)]
    low: Real
    high: Real
    outside: Real


def _parse_scales(value: object) -> object:
    """Convert "1 2.5 5", or one number, to a tuple."""
    text = "" if isinstance(value, bool | list | dict) else str(value)
    try:
        return tuple(float(word) for word in text.split())
    except ValueError:
        raise ValueError("should be numbers with spaces between them") from None


def _refuse_other_than_powers(value: int) -> int:
    if value & (value - 1):
        raise ValueError("should be a power of two")
    return value


class MeasureGuidanceSettings(Settings):
    """How guided samplers are measured.

    `scales` are those of the table. Samplers start from `sets` independent sets of `points` Sobol
    points each. `n_likelihood` true points are behind KL(truth || model).
    """

    scales: Annotated[
        tuple[Annotated[float, Field(ge=0, le=100)], ...],
        BeforeValidator(_parse_scales),
        Field(min_length=1),
    ]
    sets: Annotated[Integer, Field(ge=2, le=1000)]
    points: Annotated[Integer, Field(ge=2, le=65_536), AfterValidator(_refuse_other_than_powers)]
    n_likelihood: AtLeastTwo
    tolerance: Tolerance


class SamplePointsSettings(Settings):
    """Samples to draw of a model of a file.

    `steps` and `block` are as in `SampleSettings`. `scale` is that of classifier-free guidance, for
    files with labels.
    """

    n: AtLeastTwo
    steps: Count
    spacing: str
    block: Count
    scale: Annotated[Real, Field(ge=0, le=100)]


class MeasurePointsSettings(MeasureSamplesSettings):
    """How a model of a file and its samples are measured, against the test points.

    `n_likelihood` is the number of training and of test points whose likelihood is computed, at
    most, and `density_grid` the number of points along each side of the picture of the density.
    """

    n_likelihood: AtLeastTwo
    tolerance: Tolerance
    density_grid: Annotated[Integer, Field(ge=2, le=1000)]


class TrainingParams(Settings):
    """What every pipeline's params.yaml has: the data, and how the network is trained."""

    seed: Annotated[Integer, Field(ge=0, le=2**63 - 1)]
    dataset: str
    schedule: str
    network: str
    prediction: str
    device: str
    datasets: Sections
    data: DataSettings
    diffusion: DiffusionSettings
    schedules: Sections
    networks: Sections
    loss: LossSettings
    train: TrainSettings


class Params(TrainingParams):
    """All of the params.yaml of the root."""

    sampler: str
    samplers: Sections
    sample: SampleSettings
    optimise_spacings: OptimiseSpacingsSettings
    measure_model: MeasureModelSettings
    measure_samples: MeasureSamplesSettings
    attribute_error: AttributeErrorSettings
    compare_samplers: CompareSamplersSettings


class GuidanceParams(TrainingParams):
    """All of pipelines/guidance/params.yaml."""

    guide: GuideSettings
    guidance: GuidanceSettings
    measure_guidance: MeasureGuidanceSettings


class PointsParams(TrainingParams):
    """All of pipelines/points/params.yaml."""

    sampler: str
    samplers: Sections
    sample: SamplePointsSettings
    measure_points: MeasurePointsSettings


def refuse_contradictions(params: TrainingParams) -> None:
    """Refuse sizes that do not fit together, such as more sampling steps than the schedule has.

    Raises:
        UserError: If two parameters contradict each other.
    """
    train = params.train
    if train.warmup > train.steps:
        raise UserError(
            f"train.warmup is {train.warmup} but train.steps is {train.steps};"
            f" lower train.warmup in {PARAMS_FILE}"
        )
    if isinstance(params, Params | PointsParams) and params.sample.steps > params.diffusion.T:
        raise UserError(
            f"sample.steps is {params.sample.steps} but the schedule has T = {params.diffusion.T};"
            f" lower sample.steps in {PARAMS_FILE}"
        )
    if isinstance(params, Params):
        _refuse_contradictions_of_measurements(params)


def _refuse_contradictions_of_measurements(params: Params) -> None:
    sample, measure = params.sample, params.measure_model
    if sample.trajectories > sample.n:
        raise UserError(
            f"sample.trajectories is {sample.trajectories} but sample.n is {sample.n};"
            f" lower sample.trajectories in {PARAMS_FILE}"
        )
    if sample.trajectories * sample.frames > _MAX_TRAJECTORY_POINTS:
        raise UserError(
            f"sample.trajectories is {sample.trajectories} and sample.frames {sample.frames} but"
            f" their product should be at most {_MAX_TRAJECTORY_POINTS}; lower one of them in"
            f" {PARAMS_FILE}"
        )
    if measure.n_exact > measure.n_likelihood:
        raise UserError(
            f"measure_model.n_exact is {measure.n_exact} but measure_model.n_likelihood is"
            f" {measure.n_likelihood}; lower measure_model.n_exact in {PARAMS_FILE}"
        )
