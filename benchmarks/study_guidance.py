"""What guidance samples, in nats, with exact denoisers and with networks.

python -m benchmarks.study_guidance           # `make guidance-full`: measure what is missing, draw
python -m benchmarks.study_guidance --table   # print the tables of docs/guidance.md
python -m benchmarks.study_guidance --trial   # one class, small, into checkpoints/, in a minute

A unit is a data set with its exact denoisers, or with the network of one seed, which has data,
initial weights and batches of its own. Units that are in benchmarks/study_guidance.json are not
measured again.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.resumable import Results, run_study, train_seed, training_settings
from ddpm.core.compute import stream
from ddpm.core.files import replacing
from ddpm.core.params import Params
from ddpm.data.datasets import DATASETS, Dataset
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.guidance import guided, guided_between
from ddpm.networks.model_file import load_model
from ddpm.plots.guidance import Densities, Panel, samples_over_densities
from ddpm.plots.style import MODEL, NOISE, save
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean
from ddpm.reference.tilted import TiltedDistribution
from ddpm.sampling.multistep import DPMSolver2M
from ddpm.sampling.one_step import DDIM, DDPM, ODE
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import sampling_times
from ddpm.studies.guidance import GuidanceStudy, class_divergence
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS
from stages.common.schedule import schedule_of

_FILE = Path("benchmarks/study_guidance.json")
EXACT = "exact"
# Data set, label, and noise: an outer and an inner leaf, a half circle, a spiral.
CLASSES = {
    "tree, outer leaf": ("tree", 0),
    "tree, inner leaf": ("tree", 1),
    "moons, outer": ("moons", 0),
    "curves, spiral": ("curves", 0),
}
# The scale at which kinds of guidance are compared.
_SCALE = 3.0
# A guide is a network of a quarter of the width, trained for a twentieth of the steps.
GUIDE = {"networks.mlp.width": 16, "train.steps": 700}


# Noise levels sigma / sqrt(alpha_bar) that divide little, medium and much noise, model units.
_LEVELS = (0.15, 1.0)
_FLOW = ODE(tolerance=1e-3)
_REVERSE_TOLERANCE = 1e-3
# Times of the score's errors, as parts of T, and points at each.
_SCORE_TIMES = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7)


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        classes: Data set and label by name.
        scales: Scales of classifier-free guidance.
        seeds: Seeds of the networks.
        sets: Independent sets of starting points.
        points: Points in each.
        likelihood: True points behind each KL of a network.
        changes: Changes of dotted parameters.
        file: The results.
        figures: Folder of the figures.
    """

    classes: Mapping[str, tuple[str, int]]
    scales: Sequence[float]
    seeds: Sequence[int]
    sets: int
    points: int
    likelihood: int
    changes: Mapping[str, Any]
    file: Path
    figures: Path

    @property
    def datasets(self) -> list[str]:
        """Data sets of the classes."""
        return list(dict.fromkeys(dataset for dataset, _ in self.classes.values()))


FULL = Study(
    CLASSES, (0.0, 1.0, 1.5, 2.0, _SCALE, 5.0), range(10), 8, 256, 4000, {}, _FILE, Path("docs")
)
TRIAL = Study(
    {"moons, outer": ("moons", 0)},
    (1.0, _SCALE),
    range(2),
    2,
    16,
    100,
    {"data.n_train": 1000, "train.steps": 300},
    CHECKPOINTS / _FILE.name,
    CHECKPOINTS,
)


class Denoisers(NamedTuple):
    """Everything that is measured of a data set.

    Attributes:
        dataset: The data set.
        scaling: Map from its data units to the model units of the networks.
        exact: Exact distribution, in model units.
        given: Denoiser of a label, or of the whole for None.
        guide: Denoiser of a label by the worse network; None for exact denoisers.
    """

    dataset: Dataset
    scaling: Scaling
    exact: ExactDistribution
    given: Callable[[int | None], Denoiser]
    guide: Callable[[int | None], Denoiser] | None


def measure(study: Study) -> None:
    """Measure the units that are not in the file of results."""
    settings = training_settings(load_params(), {"dataset", "datasets"}) | {
        "changes": study.changes,
        "classes": {name: list(of) for name, of in study.classes.items()},
        "datasets": {name: load_params().datasets[name] for name in study.datasets},
        "guide": GUIDE,
        "likelihood": study.likelihood,
        "scales": list(study.scales),
        "starts": [study.sets, study.points],
    }
    results = Results.resume(study.file, settings)
    units = [(dataset, seed) for seed in (EXACT, *study.seeds) for dataset in study.datasets]
    missing = [unit for unit in units if _key(*unit) not in results.cells]
    for dataset, seed in tqdm(missing, desc="guidance", unit="unit", disable=None):
        results.add(_key(dataset, seed), measure_unit(study, dataset, seed))
        print(f"measured {_key(dataset, seed)}", flush=True)


def measure_unit(study: Study, dataset: str, seed: int | str) -> dict[str, Any]:
    """Measure all classes of a data set with one pair of denoisers."""
    labels = {name: label for name, (of, label) in study.classes.items() if of == dataset}
    number = 0 if isinstance(seed, str) else seed
    common = {**study.changes, "dataset": dataset, "device": "cpu", "seed": number}
    common["train.drop_label"] = 0.2
    with tempfile.TemporaryDirectory() as folder:
        if seed == EXACT:
            denoisers = _exact(Params.model_validate(changed(present_params(), **common)))
        else:
            denoisers = _networks(common, Path(folder))
        unit: dict[str, Any] = {}
        for name, label in labels.items():
            rows, points = _rows(study, denoisers, label, number)
            unit[name] = {"rows": rows}
            if seed in (EXACT, study.seeds[0]):
                _keep(study, f"{name}, {_key(dataset, seed)}", points)
            if seed != EXACT:
                unit[name]["kl"] = _kl(study, denoisers, label, number)
                unit[name]["score"] = _score_errors(study, denoisers, label, number)
        if seed != EXACT:
            unit["whole"] = {"kl": _kl(study, denoisers, None, number)}
    return unit


def _exact(params: Params) -> Denoisers:
    dataset = DATASETS[params.dataset].model_validate(params.datasets[params.dataset])
    generator = stream(params.seed, "generate/train")
    scaling = Scaling.from_points(dataset.sample(params.data.n_train, generator=generator))
    exact = ExactDistribution.from_dataset(dataset, scaling, schedule_of(params))

    def given(label: int | None) -> Denoiser:
        return (exact if label is None else exact.given(label)).denoiser

    return Denoisers(dataset, scaling, exact, given, None)


def _networks(common: Mapping[str, Any], folder: Path) -> Denoisers:
    """Train a network and its guide."""
    models = []
    for name, changes in (("main", {}), ("guide", GUIDE)):
        values = changed(present_params(), **{**common, **changes})
        (folder / name).mkdir()
        under_test = train_seed(Params.model_validate(values), folder / name)
        models.append(load_model(folder / name / "model.safetensors"))
    main, guide = models
    return Denoisers(main.dataset, main.scaling, under_test.exact, main.given, guide.given)


def _rows(
    study: Study, of: Denoisers, label: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Rows of all scales: every sampler and kind of guidance; and samples, data units."""
    rows, points = [], {}
    for scale in study.scales:
        tilted = TiltedDistribution(of.exact, label, scale)
        sizes = {"sets": study.sets, "points": study.points}
        measured = GuidanceStudy(tilted, of.dataset, of.scaling, **sizes, seed=seed)
        for (kind, method), (parts, x) in _measure_scale(measured, of).items():
            row: dict[str, Any] = {"scale": scale, "kind": kind, "method": method}
            for part in parts:
                row |= {key: _plain(value) for key, value in part._asdict().items()}
            rows.append(row)
            points[f"{scale:g}, {kind}, {method}"] = of.scaling.to_data(x).float()
    return rows, points


# Measurements, and the samples that were measured, model units.
Measured = tuple[tuple[NamedTuple, ...], Tensor]


def _measure_scale(measured: GuidanceStudy, of: Denoisers) -> dict[tuple[str, str], Measured]:
    """Measurements of one scale by kind of guidance and sampler."""
    tilted = measured.tilted
    conditional, null, scale = of.given(tilted.label), of.given(None), tilted.scale
    schedule = conditional.schedule

    def flow(denoiser: Denoiser) -> Measured:
        nats, x = measured.density(_FLOW, denoiser, [float(schedule.T)])
        lost, _ = measured.reverse(denoiser, tolerance=_REVERSE_TOLERANCE)
        return (nats, lost), x

    def few(sampler: Sampler, times: list[float]) -> Measured:
        nats, x = measured.density(sampler, cfg, times)
        return (nats,), x

    def drawn(sampler: Sampler, denoiser: Denoiser, steps: int) -> Measured:
        nats, x = measured.drawn(sampler, denoiser, sampling_times("log_snr", schedule, steps))
        return (nats,), x

    cfg, ddpm = guided(conditional, null, scale), DDPM(variance="posterior")
    wrong = tilted.mean(measured.wrong_class(tilted.grid))
    itself = Tilted(tilted.entropy, wrong, measured.conditional_to_tilted())
    points = tilted.sample(measured.starts[..., 0].numel(), generator=stream(0, "shown"))
    found: dict[tuple[str, str], Measured] = {
        ("tilted", "itself"): ((itself,), points),
        ("cfg", "flow"): flow(cfg),
        ("cfg", "ddim 50"): few(DDIM(eta=0), sampling_times("trailing", schedule, 50)),
        ("cfg", "dpmpp_2m 10"): few(DPMSolver2M(), sampling_times("log_snr", schedule, 10)),
        ("cfg", "ddpm 400"): drawn(ddpm, cfg, 400),
    }
    if scale != _SCALE:
        return found
    low, high = _LEVELS
    levels = {"little": (0.0, low), "medium": (low, high), "much": (high, math.inf)}
    for amount, between in levels.items():
        denoiser = guided_between(conditional, null, scale, *between)
        found[f"interval, {amount} noise", "flow"] = flow(denoiser)
    window = guided_between(conditional, null, -1.0, low, high, outside=scale)
    found["window of scale -1", "flow"] = flow(window)
    correctors = DDPM(variance="posterior", correctors=24, corrector_step=0.2)
    found["cfg", "ddpm 100, 24 correctors"] = drawn(correctors, cfg, 100)
    if of.guide is None:
        found["true score", "flow"] = flow(tilted.denoiser)
    else:
        auto = guided(conditional, of.guide(tilted.label), scale)
        found["autoguidance", "flow"] = flow(auto)
        found["autoguidance", "ddpm 400"] = drawn(ddpm, auto, 400)
    return found


def _keep(study: Study, name: str, points: Mapping[str, Tensor]) -> None:
    """Store samples for the figures, which git ignores."""
    arrays = {key: x.numpy() for key, x in points.items()}
    with replacing(_points_file(study, name)) as path, path.open("wb") as file:
        np.savez(file, **arrays)


def _points_file(study: Study, name: str) -> Path:
    slug = "-".join(name.replace(",", " ").split())
    return CHECKPOINTS / f"{study.file.stem}-{study.points}-{slug}.npz"


class Tilted(NamedTuple):
    """The tilted distribution itself.

    Attributes:
        entropy: In nats, with respect to model units.
        wrong_class: Mean posterior probability of the other labels.
        conditional_to_tilted: KL(conditional || tilted).
    """

    entropy: float
    wrong_class: float
    conditional_to_tilted: float


def _plain(value: object) -> object:
    """Value of an estimate with its standard error, or of a number alone."""
    return [value.value, value.se] if isinstance(value, Mean) else value


def _kl(study: Study, of: Denoisers, label: int | None, seed: int) -> list[float]:
    """KL(truth || model) of a label, or of the whole, with its standard error."""
    exact = of.exact if label is None else of.exact.given(label)
    return list(class_divergence(exact, of.given(label), n=study.likelihood, seed=seed))


def _score_errors(study: Study, of: Denoisers, label: int, seed: int) -> list[dict[str, float]]:
    """Mean squared errors of eps_hat at points of the class: conditional, null, and difference."""
    truth = of.exact.given(label)
    rows = []
    for part in _SCORE_TIMES:
        t = part * of.exact.schedule.T
        x_t = truth.sample(study.likelihood, t, generator=stream(seed, f"guidance/score/{part}"))
        with torch.no_grad():
            errors = [
                of.given(which)(x_t, t)[1] - exact.denoiser(x_t, t)[1]
                for which, exact in ((label, truth), (None, of.exact))
            ]
        values = (*errors, errors[0] - errors[1])
        squares = [float(value.square().sum(1).mean()) for value in values]
        rows.append(
            dict(zip(("t", "conditional", "null", "difference"), (t, *squares), strict=True))
        )
    return rows


def _key(dataset: str, seed: int | str) -> str:
    return f"{dataset}, {seed if seed == EXACT else f'seed {seed}'}"


class Found(NamedTuple):
    """Values of one row over the units of a class: exact ones, and means over seeds."""

    exact: list[dict[str, Any]]
    networks: list[dict[str, Any]]


def found(study: Study, results: Results, name: str, **where: object) -> Found:
    """Rows of a class that have these values, of the exact denoisers and of each network."""
    dataset, _ = study.classes[name]
    parts = []
    for seeds in ((EXACT,), study.seeds):
        units = [results.cells.get(_key(dataset, seed)) for seed in seeds]
        parts.append(
            [
                row
                for unit in units
                if unit
                for row in unit[name]["rows"]
                if all(row[key] == value for key, value in where.items())
            ]
        )
    return Found(*parts)


def shown(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """A value with its error: of one row its own, of several that of their mean."""
    values = [row[key][0] if isinstance(row[key], list) else row[key] for row in rows if key in row]
    if not values:
        return ""
    folded = "≥ " if any(row.get("folded", 0) > 0 for row in rows) and key.startswith("to_") else ""
    # Without the sign of a zero.
    mean = round(statistics.mean(values), 3) + 0.0
    if len(values) > 1:
        return f"{folded}{mean:.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
    error = next((row[key][1] for row in rows if isinstance(row[key], list)), None)
    return f"{folded}{mean:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def scales_table(study: Study, results: Results) -> str:
    """The flow with classifier-free guidance, as Markdown."""
    lines = [
        "| class | scale | denoiser | to conditional | to tilted | from tilted (median) |"
        " none to tilted | entropy (tilted's) | wrong classes (tilted's) | outside |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in study.classes:
        for scale in study.scales:
            itself = found(study, results, name, scale=scale, kind="tilted")
            rows = found(study, results, name, scale=scale, kind="cfg", method="flow")
            for who, mine, tilted in zip(("exact", "network"), rows, itself, strict=True):
                if not mine:
                    continue
                values = (
                    *(shown(mine, key) for key in ("to_conditional", "to_tilted")),
                    f"{shown(mine, 'from_tilted')} ({shown(mine, 'from_tilted_median')})",
                    shown(tilted[:1], "conditional_to_tilted"),
                    f"{shown(mine, 'entropy')} ({shown(tilted[:1], 'entropy')})",
                    f"{shown(mine, 'wrong_class')} ({shown(tilted[:1], 'wrong_class')})",
                    shown(mine, "outside"),
                )
                lines.append(f"| {name} | {scale:g} | {who} | {' | '.join(values)} |")
    return "\n".join(lines)


def kinds_table(study: Study, results: Results) -> str:
    """All samplers and kinds of guidance at one scale, as Markdown."""
    lines = [
        "| class | guidance | sampler | to tilted, exact | to tilted, network |"
        " to conditional, exact | to conditional, network |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in study.classes:
        every = found(study, results, name, scale=_SCALE)
        pairs = dict.fromkeys((row["kind"], row["method"]) for part in every for row in part)
        for kind, method in pairs:
            if kind == "tilted":
                continue
            rows = found(study, results, name, scale=_SCALE, kind=kind, method=method)
            values = [shown(part, key) for key in ("to_tilted", "to_conditional") for part in rows]
            lines.append(f"| {name} | {kind} | {method} | {' | '.join(values)} |")
    return "\n".join(lines)


def drawn_table(study: Study, results: Results) -> str:
    """What is known of the samples of stochastic samplers, as Markdown."""
    keys = ("bias", "energy_to_tilted", "energy_to_conditional", "log_density", "strays")
    lines = [
        "| class | guidance | sampler | denoiser | entropy (tilted's) | its bias |"
        " energy distance to tilted | to conditional | log density minus truth | strays |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in study.classes:
        itself = found(study, results, name, scale=_SCALE, kind="tilted")
        every = found(study, results, name, scale=_SCALE)
        pairs = {(row["kind"], row["method"]) for part in every for row in part if "bias" in row}
        for kind, method in sorted(pairs, reverse=True):
            rows = found(study, results, name, scale=_SCALE, kind=kind, method=method)
            for who, mine, tilted in zip(("exact", "network"), rows, itself, strict=True):
                if mine:
                    entropy = f"{shown(mine, 'entropy')} ({shown(tilted[:1], 'entropy')})"
                    values = (entropy, *(shown(mine, key) for key in keys))
                    lines.append(f"| {name} | {kind} | {method} | {who} | {' | '.join(values)} |")
    return "\n".join(lines)


def networks_table(study: Study, results: Results) -> str:
    """KL(truth || model) of each class and of the whole, and errors of the scores, as Markdown."""
    times = " | ".join(f"t = {1000 * part:g}" for part in _SCORE_TIMES)
    lines = [f"| class | KL over the seeds | {times} |", "|---|---|" + "---|" * len(_SCORE_TIMES)]
    kinds = ("conditional", "null", "difference")
    rows = [(name, dataset, name) for name, (dataset, _) in study.classes.items()]
    rows += [(f"{dataset}, null label", dataset, "whole") for dataset in study.datasets]
    for title, dataset, part in rows:
        keys = [_key(dataset, seed) for seed in study.seeds]
        units = [results.cells[key][part] for key in keys if key in results.cells]
        if not units:
            continue
        errors = [
            " / ".join(
                f"{statistics.mean(unit['score'][k][error] for unit in units):.1e}"
                for error in kinds
            )
            for k in range(len(_SCORE_TIMES) if part != "whole" else 0)
        ]
        errors += [""] * (len(_SCORE_TIMES) - len(errors))
        values = (_over_seeds([unit["kl"][0] for unit in units]), *errors)
        lines.append(f"| {title} | {' | '.join(values)} |")
    return "\n".join(lines)


def _over_seeds(values: Sequence[float]) -> str:
    spread = f", sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def present(study: Study) -> None:
    """Print the tables, and draw the figures if the samples are here."""
    results = Results.read(study.file)
    print(*(table(study, results) for table in TABLES), sep="\n\n")
    for path, figure in draw(study, results).items():
        with replacing(study.figures / path) as temporary:
            save(figure, temporary)


# Columns of the figure of scales, and of the figure of kinds: title, row of the table, colour.
_SHOWN = {
    "flow, scale 1": ("1, cfg, flow", MODEL),
    "flow, scale 2": ("2, cfg, flow", MODEL),
    "flow, scale 5": ("5, cfg, flow", MODEL),
    "ddpm, scale 5": ("5, cfg, ddpm 400", "#e08e2b"),
    "tilted, scale 2": ("2, tilted, itself", NOISE),
    "tilted, scale 5": ("5, tilted, itself", NOISE),
}
_KINDS = {
    "flow": ("3, cfg, flow", MODEL),
    "interval, little noise": ("3, interval, little noise, flow", MODEL),
    "window of scale -1": ("3, window of scale -1, flow", MODEL),
    "ddpm": ("3, cfg, ddpm 400", "#e08e2b"),
    "ddpm, 24 correctors": ("3, cfg, ddpm 100, 24 correctors", "#e08e2b"),
    "autoguidance, network": ("3, autoguidance, flow", MODEL),
    "tilted itself": ("3, tilted, itself", NOISE),
}
_CAPTION = (
    "exact denoisers but for autoguidance; grey: data of all classes; blue: 99 % region of the"
    " class; green: 50 % and 99 % of the tilted distribution"
)


def draw(study: Study, results: Results) -> dict[str, Figure]:
    """Samples of all classes over their densities, by the name of the file."""
    figures = {}
    for file, columns in (("guidance.png", _SHOWN), ("guidance_kinds.png", _KINDS)):
        rows = {}
        for name, (dataset, label) in study.classes.items():
            panels = _panels(study, results, name, dataset, label, columns)
            if not panels:
                return {}
            rows[name] = panels
        figures[file] = samples_over_densities(rows, _CAPTION, size=1.6)
    return figures


def _panels(
    study: Study,
    results: Results,
    name: str,
    dataset: str,
    label: int,
    columns: Mapping[str, tuple[str, str]],
) -> list[Panel]:
    """Panels of a class; none if a sample is missing."""
    points: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, Any]] = {}
    for seed in (study.seeds[0], EXACT):
        file = _points_file(study, f"{name}, {_key(dataset, seed)}")
        if file.exists() and _key(dataset, seed) in results.cells:
            points |= dict(np.load(file))
            for row in results.cells[_key(dataset, seed)][name]["rows"]:
                rows[f"{row['scale']:g}, {row['kind']}, {row['method']}"] = row
    if not all(key in points for key, _ in columns.values()):
        return []
    values = changed(present_params(), **study.changes, dataset=dataset, seed=0)
    of = _exact(Params.model_validate(values))
    grids: dict[float, TiltedDistribution] = {
        scale: TiltedDistribution(of.exact, label, scale) for scale in (0.0, *study.scales)
    }

    def image(flat: Tensor) -> np.ndarray:
        side = math.isqrt(len(flat))
        square: np.ndarray = flat.view(side, side).T.numpy()
        return square

    panels = []
    for title, (key, color) in columns.items():
        tilted = grids[float(key.split(",")[0])]
        x, y = of.scaling.to_data(torch.stack((tilted.side, tilted.side), dim=1)).T.numpy()
        densities = Densities(
            x,
            y,
            image(grids[0.0].weights),
            image(grids[1.0].region_mass),
            image(tilted.region_mass),
        )
        row = rows[key]
        wrong = row["wrong_class"]
        text = f"wrong classes {wrong[0] if isinstance(wrong, list) else wrong:.2f}"
        if "to_tilted" in row:
            nats = row["to_tilted"]
            value = round(nats[0] if isinstance(nats, list) else nats, 2) + 0.0
            text = f"{value:.2f} nats to tilted\n{text}"
        panels.append(Panel(f"{title}\n{text}", points[key], color, densities))
    return panels


TABLES = (scales_table, kinds_table, drawn_table, networks_table)

if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
