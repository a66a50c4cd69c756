"""How close samples come to the truth with ten evaluations or fewer, over seeds.

A seed is a run of the whole pipeline: its own data, model, optimised times, noise, true sets. For
each number of evaluations, and for network and exact denoiser apart, the candidate with the least
mean energy distance of 10,000 samples on seeds 0 to 4 is chosen; seeds 5 to 9 are its score. All
candidates are printed, and for comparison samplers with 20 or 50 evaluations, and the
converged flow. Strays are samples whose exact log density is below that of each of 200,000 true
points. Run as `make few`: about fifteen minutes.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch

from ddpm.core.params import Params
from ddpm.reference.distances import energy_distance, mean_distances_within
from ddpm.reference.log_density import LogDensityMeasure
from ddpm.reference.model_under_test import ModelUnderTest, load_model_under_test
from ddpm.sampling.spacings import OPTIMISED
from ddpm.studies.optimised_spacings import optimised_spacings
from ddpm.studies.sampler_cells import Cell, plan
from ddpm.studies.sampler_comparison import sample_cell
from stages import generate, train
from stages.common.outputs import completing
from stages.common.params import load_params
from stages.common.sampler import sampler_of

_CHOSEN_ON, _SCORED_ON = range(5), range(5, 10)
_N, _N_TRUE = 10_000, 200_000
_EVALUATIONS = (5, 8, 10)
_CANDIDATES = [
    *(("ddim", spacing) for spacing in ("trailing", "log_snr")),
    *((sampler, "log_snr") for sampler in ("dpmpp_2m", "unipc")),
    *(("unipc", spacing) for spacing in OPTIMISED),
]
_COMPARISONS = [
    Cell("unipc", "log_snr", 20),
    Cell("dpmpp_2m_sde", "log_snr", 20),
    Cell("dpmpp_2m_sde", "log_snr", 50),
    Cell("ddim", "trailing", 50),
    Cell("ode", "trailing", 1),
]
_DENOISERS = ("network", "exact")


class Row(NamedTuple):
    """A cell with a denoiser."""

    cell: Cell
    denoiser: str


_ROWS = [
    *(
        Row(Cell(*candidate, steps), name)
        for steps in _EVALUATIONS
        for candidate in _CANDIDATES
        for name in _DENOISERS
    ),
    # With the exact denoiser these would take longer than all the rest.
    *(Row(cell, "network") for cell in _COMPARISONS),
]


class Quality(NamedTuple):
    """Energy distance of the samples, and the percentage of strays among them."""

    energy: float
    strays: float


def train_seed(params: Params, folder: Path) -> ModelUnderTest:
    """Make data and model of a seed in a folder, by the pipeline's own stages."""
    model = folder / "model.safetensors"
    places = {
        "load_params": lambda: params,
        "TRAIN": folder / "train.npy",
        "TEST": folder / "test.npy",
    }
    results = {"MODEL": model, "TRAINING_CSV": folder / "training.csv", "CHECKPOINTS": folder}
    with patch.multiple(generate, **places), patch.multiple(train, **places, **results):
        for stage in (generate, train):
            with completing():
                stage.main()
    return load_model_under_test(model)


def measure(params: Params, model: ModelUnderTest) -> dict[Row, Quality]:
    """Quality of every candidate and comparison, with the network and with the exact denoiser."""
    settings = params.optimise_spacings
    sampler = sampler_of(params, model.schedule, settings.sampler)
    spacings = optimised_spacings(
        model,
        sampler,
        _EVALUATIONS,
        n=settings.n,
        tolerance=settings.tolerance,
        iterations=settings.iterations,
    )
    generator = torch.Generator().manual_seed(10_000 + model.seed)
    true_set = model.dataset.sample(_N, generator=generator)
    within = mean_distances_within(true_set)
    log_density = LogDensityMeasure(model, model.dataset.sample(_N_TRUE, generator=generator))
    denoisers = {"network": model.denoiser, "exact": model.exact.denoiser}
    samplers = {
        row.cell.sampler: sampler_of(params, model.schedule, row.cell.sampler) for row in _ROWS
    }
    qualities = {}
    for row in _ROWS:
        cell_sampler, times = plan(row.cell, samplers, model.schedule, spacings)
        points, _ = sample_cell(model, cell_sampler, times, denoisers[row.denoiser], _N)
        qualities[row] = Quality(
            energy_distance(points, true_set, within).value, 100 * log_density(points, "few").strays
        )
    return qualities


def summary(seeds: Sequence[dict[Row, Quality]], row: Row) -> str:
    """Mean energy distance with its standard error over seeds, and mean percentage of strays."""
    energies, strays = zip(*(qualities[row] for qualities in seeds), strict=True)
    se = statistics.stdev(energies) / len(energies) ** 0.5
    return f"{statistics.mean(energies):.5f} ± {se:.5f} | {statistics.mean(strays):.2f} %"


def best(seeds: Sequence[dict[Row, Quality]], evaluations: int, denoiser: str) -> Row:
    """The candidate with the least mean energy distance."""
    rows = [Row(Cell(*candidate, evaluations), denoiser) for candidate in _CANDIDATES]
    return min(rows, key=lambda row: statistics.mean(seed[row].energy for seed in seeds))


def main() -> None:
    params = load_params()

    def run(seed: int) -> dict[Row, Quality]:
        seeded = params.model_copy(update={"seed": seed, "device": "cpu"})
        with tempfile.TemporaryDirectory() as folder:
            return measure(seeded, train_seed(seeded, Path(folder)))

    chosen_on, scored_on = ([run(seed) for seed in seeds] for seeds in (_CHOSEN_ON, _SCORED_ON))
    chosen = [best(chosen_on, steps, name) for steps in _EVALUATIONS for name in _DENOISERS]
    print(
        "| evaluations | sampler | spacing | denoiser | seeds 0-4 | strays | seeds 5-9 | strays | |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in _ROWS:
        cell, name = row
        evaluations = "converged" if cell.sampler == "ode" else cell.evaluations
        print(
            f"| {evaluations} | {cell.sampler} | {cell.spacing} | {name} |"
            f" {summary(chosen_on, row)} | {summary(scored_on, row)} |"
            f" {'chosen' if row in chosen else ''} |"
        )


if __name__ == "__main__":
    main()
