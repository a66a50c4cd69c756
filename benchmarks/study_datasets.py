"""The same recipe on every data set: how far is the model from the truth?

python -m benchmarks.study_datasets           # `make datasets`: measure what is missing, draw
python -m benchmarks.study_datasets --table   # print the table of docs/data.md
python -m benchmarks.study_datasets --trial   # two small models into checkpoints/, in seconds

A cell is a data set and a seed. Its model comes from the pipeline's own stages, with the parameters
of params.yaml. Cells that are in benchmarks/study_datasets.json are not measured again.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.copies import changed, present_params
from benchmarks.resumable import Results, divergence, run_study, train_seed, training_settings
from ddpm.core.files import replacing
from ddpm.core.params import Params
from ddpm.data.datasets import DATASETS
from ddpm.plots.style import MODEL, TRUTH, cloud, save, styled
from ddpm.reference.log_density import LogDensityMeasure
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.spacings import sampling_times
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS
from stages.common.sampler import sampler_of

_FILE = Path("benchmarks/study_datasets.json")
_FIGURE = Path("docs/data.png")
# Data sets in each row of the figure, with two panels each.
_COLUMNS = 2


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        names: Data sets.
        seeds: Seeds of each; samples of the first are drawn.
        changes: Changes of dotted parameters.
        points: True points behind each KL, and samples.
        tolerance: Tolerance of the solver of the probability flow.
        file: The results.
        figure: A picture of true points and samples.
    """

    names: Sequence[str]
    seeds: Sequence[int]
    changes: Mapping[str, Any]
    points: int
    tolerance: float
    file: Path
    figure: Path


FULL = Study(list(DATASETS), range(3), {}, 10_000, 1e-5, _FILE, _FIGURE)
TRIAL = Study(
    ["moons", "checkerboard"],
    range(2),
    {"data.n_train": 1000, "train.steps": 200, "sample.steps": 20},
    200,
    1e-3,
    CHECKPOINTS / _FILE.name,
    CHECKPOINTS / _FIGURE.name,
)


def measure(study: Study) -> None:
    """Measure the cells that are not in the file of results."""
    params = load_params()
    settings = training_settings(params, {"dataset", "datasets"}) | {
        "changes": study.changes,
        "points": study.points,
        "tolerance": study.tolerance,
    }
    results = Results.resume(study.file, settings)
    cells = [(name, seed) for name in study.names for seed in study.seeds]
    missing = [cell for cell in cells if _key(*cell) not in results.cells]
    for name, seed in tqdm(missing, desc="data sets", unit="model", disable=None):
        changes = {**study.changes, "dataset": name, "seed": seed, "device": "cpu"}
        values = Params.model_validate(changed(present_params(), **changes))
        with tempfile.TemporaryDirectory() as folder:
            model = train_seed(values, Path(folder))
        points = _samples(model, values, study.points)
        if seed == study.seeds[0]:
            with replacing(_points_file(study, name)) as path, path.open("wb") as file:
                np.save(file, points.float().numpy())
        cell = measure_model(model, points, study)
        results.add(_key(name, seed), cell)
        print(f"{_key(name, seed)}: KL {cell['kl']['value']:.4f}", flush=True)


def measure_model(model: ModelUnderTest, points: torch.Tensor, study: Study) -> dict[str, Any]:
    """KL(truth || model), and log density of samples minus that of true points, with strays."""
    truth, _ = model.true_sets(study.points, 0, "study/datasets")
    log_density = LogDensityMeasure(model, truth)
    samples = log_density(points, "study/datasets")
    return {
        "noise": model.noise,
        "kl": divergence(model, study.points, study.tolerance)._asdict(),
        "entropy": -log_density.truth.value,
        "log_density": samples.mean.value - log_density.truth.value,
        "strays": samples.strays,
    }


def _samples(model: ModelUnderTest, params: Params, n: int) -> torch.Tensor:
    """Samples by the sampler of params.yaml, data units."""
    sample = params.sample
    times = sampling_times(sample.spacing, model.schedule, sample.steps)
    result = draw_samples(
        sampler_of(params, model.schedule),
        model.denoiser,
        times,
        n=n,
        block=sample.block,
        seed=model.seed,
        clean=model.fresh(n, "study/clean"),
    )
    return model.scaling.to_data(result.x.double())


def table(study: Study, results: Results) -> str:
    """Means over the seeds of every data set, as Markdown."""
    lines = [
        "| data set | noise | entropy | KL | log density minus truth | strays |",
        "|---|---|---|---|---|---|",
    ]
    for name in study.names:
        cells = [
            results.cells[key] for seed in study.seeds if (key := _key(name, seed)) in results.cells
        ]
        if len(cells) < len(study.seeds):
            continue
        kl = [cell["kl"]["value"] for cell in cells]
        entropy, log_density, strays = (
            statistics.mean(cell[key] for cell in cells)
            for key in ("entropy", "log_density", "strays")
        )
        shown = f"{statistics.mean(kl):.4f}, sd {statistics.stdev(kl):.4f}"
        lines.append(
            f"| `{name}` | {cells[0]['noise']:g} | {entropy:.2f} | {shown} | {log_density:+.3f} |"
            f" {strays:.2%} |"
        )
    return "\n".join(lines)


@styled()
def gallery(truth: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]) -> Figure:
    """True points and samples of each data set, side by side."""
    rows = -(-len(truth) // _COLUMNS)
    figure = Figure(figsize=(4.4 * _COLUMNS, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2 * _COLUMNS, squeeze=False).reshape(-1, 2)
    for pair, name in zip(panels, truth, strict=False):
        limit = 1.05 * max(float(np.abs(truth[name]).max()), 1.0)
        for axes, points, color, title in zip(
            pair, (truth[name], samples[name]), (TRUTH, MODEL), ("truth", "samples"), strict=True
        ):
            cloud(axes, points, color, limit=limit, size=0.8)
            axes.set_title(f"{name}: {title}")
    for pair in panels[len(truth) :]:
        for axes in pair:
            axes.set_axis_off()
    return figure


def present(study: Study) -> None:
    """Print the table, and draw the figure if the samples are here."""
    results = Results.read(study.file)
    print(table(study, results))
    files = {name: _points_file(study, name) for name in study.names}
    if all(file.exists() for file in files.values()):
        samples = {name: np.load(file) for name, file in files.items()}
        params = load_params()
        truth = {
            name: DATASETS[name]
            .model_validate(params.datasets[name])
            .sample(study.points, generator=torch.Generator().manual_seed(0))
            .numpy()
            for name in study.names
        }
        with replacing(study.figure) as path:
            save(gallery(truth, samples), path)


def _key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def _points_file(study: Study, name: str) -> Path:
    return CHECKPOINTS / f"{study.file.stem}_{study.points}_{name}.npy"


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
