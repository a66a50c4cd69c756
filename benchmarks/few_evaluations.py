"""How near to the floor samples come with ten evaluations or fewer, over seeds.

A seed is a run of the whole pipeline: its own data, model, optimised times, noise, true sets. For
each number of evaluations, and for network and exact denoiser apart, the candidate with the least
mean energy distance of 10,000 samples on seeds 0 to 4 is chosen; seeds 5 to 9 are its score. All
candidates are printed. Run as `make few`: about ten minutes.
"""

import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from ddpm.core.params import Params
from ddpm.reference.distances import energy_distance
from ddpm.reference.model_under_test import ModelUnderTest, load_model_under_test
from ddpm.sampling.spacings import OPTIMISED
from ddpm.studies.optimised_spacings import optimised_spacings
from ddpm.studies.sampler_comparison import Cell, plan, sample_cell
from stages import generate, train
from stages.common.outputs import completing
from stages.common.params import load_params
from stages.common.sampler import sampler_of

_CHOSEN_ON, _SCORED_ON = range(5), range(5, 10)
_N = 10_000
_EVALUATIONS = (5, 8, 10)
_CANDIDATES = [
    *(("ddim", spacing) for spacing in ("trailing", "log_snr")),
    *((sampler, "log_snr") for sampler in ("dpmpp_2m", "unipc")),
    *(("unipc", spacing) for spacing in OPTIMISED),
]
Row = tuple[str, str, int, str]


def train_seed(params: Params, folder: Path) -> ModelUnderTest:
    """Make data and model of a seed in a folder, by the pipeline's own stages."""
    data, model = folder / "train.npy", folder / "model.safetensors"
    for stage in (generate, train):
        stage.load_params = lambda: params
    generate.TRAIN, generate.TEST = data, folder / "test.npy"
    train.TRAIN, train.TEST = data, folder / "test.npy"
    train.MODEL, train.TRAINING_CSV = model, folder / "training.csv"
    train.CHECKPOINTS = folder
    for stage in (generate, train):
        with completing():
            stage.main()
    return load_model_under_test(model)


def distances(params: Params, model: ModelUnderTest) -> dict[Row, float]:
    """Energy distance of every candidate, with the network and with the exact denoiser."""
    settings = params.optimise_spacings
    sampler = sampler_of(params, model.schedule, settings.sampler)
    spacings = optimised_spacings(
        model, sampler, _EVALUATIONS, n=settings.n, tolerance=settings.tolerance
    )
    samplers = {name: sampler_of(params, model.schedule, name) for name, _ in _CANDIDATES}
    generator = torch.Generator().manual_seed(10_000 + model.seed)
    true_set = model.dataset.sample(_N, generator=generator)
    energies = {}
    for name, spacing in _CANDIDATES:
        for evaluations in _EVALUATIONS:
            cell = Cell(name, spacing, evaluations)
            cell_sampler, times = plan(cell, samplers, model.schedule, spacings)
            denoisers = {"network": model.denoiser, "exact": model.exact.denoiser}
            for denoiser_name, denoiser in denoisers.items():
                points, cost = sample_cell(model, cell_sampler, times, denoiser, _N)
                assert cost == evaluations
                energy = energy_distance(points, true_set).value
                energies[name, spacing, evaluations, denoiser_name] = energy
    return energies


def mean(seeds: Iterable[dict[Row, float]], row: Row) -> tuple[float, float]:
    values = [energies[row] for energies in seeds]
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    params = load_params()

    def run(seed: int) -> dict[Row, float]:
        seeded = params.model_copy(update={"seed": seed, "device": "cpu"})
        with tempfile.TemporaryDirectory() as folder:
            return distances(seeded, train_seed(seeded, Path(folder)))

    seeds = [run(seed) for seed in (*_CHOSEN_ON, *_SCORED_ON)]
    chosen_on, scored_on = seeds[: len(_CHOSEN_ON)], seeds[len(_CHOSEN_ON) :]
    print("| evaluations | sampler | spacing | denoiser | seeds 0-4 | seeds 5-9 | |")
    print("|---|---|---|---|---|---|---|")
    for evaluations in _EVALUATIONS:
        best = {
            which: min(_CANDIDATES, key=lambda c: mean(chosen_on, (*c, evaluations, which))[0])
            for which in ("network", "exact")
        }
        for candidate in _CANDIDATES:
            for which in ("network", "exact"):
                row = (*candidate, evaluations, which)
                numbers = [
                    f"{value:.5f} ± {se:.5f}"
                    for value, se in (mean(chosen_on, row), mean(scored_on, row))
                ]
                mark = "chosen" if best[which] == candidate else ""
                print(
                    f"| {evaluations} | {' | '.join(candidate)} | {which} | "
                    f"{' | '.join(numbers)} | {mark} |"
                )


if __name__ == "__main__":
    main()
