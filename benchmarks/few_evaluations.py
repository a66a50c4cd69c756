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

from ddpm.comparison import Cell, plan, sampled
from ddpm.datasets import SPIRAL
from ddpm.metrics import energy_distance
from ddpm.optimise import optimised_spacings
from ddpm.params import Params, load
from ddpm.samplers import SAMPLERS, sampler_of
from ddpm.spacings import OPTIMISED
from ddpm.subject import Subject, load_subject
from stages import generate, train

_CHOSEN_ON, _SCORED_ON = range(5), range(5, 10)
_N = 10_000
_EVALUATIONS = (5, 8, 10)
_CANDIDATES = [
    *(("ddim", spacing) for spacing in ("trailing", "log_snr")),
    *((sampler, "log_snr") for sampler in ("dpmpp_2m", "unipc")),
    *(("unipc", spacing) for spacing in OPTIMISED),
]
Row = tuple[str, str, int, str]


def trained(params: Params, folder: Path) -> Subject:
    """Data and model of a seed, made by the pipeline's own stages in a folder."""
    data, model = folder / "train.npy", folder / "model.safetensors"
    for stage in (generate, train):
        stage.load = lambda: params
    generate.TRAIN, generate.TEST = data, folder / "test.npy"
    train.TRAIN, train.TEST = data, folder / "test.npy"
    train.MODEL, train.TRAINING_CSV = model, folder / "training.csv"
    generate.main()
    train.main()
    return load_subject(model, params, data)


def distances(params: Params, subject: Subject) -> dict[Row, float]:
    """Energy distance of every candidate, with the network and with the exact denoiser."""
    schedule = subject.denoiser.schedule
    wanted = params.optimise
    sampler = sampler_of(params, schedule, wanted.sampler)
    spacings = optimised_spacings(
        subject, sampler, _EVALUATIONS, n=wanted.n, tolerance=wanted.tolerance
    )
    true = SPIRAL.sample(
        _N, subject.noise, generator=torch.Generator().manual_seed(10_000 + subject.seed)
    )
    found = {}
    for name, spacing in _CANDIDATES:
        for evaluations in _EVALUATIONS:
            ready, times = plan(Cell(name, spacing, evaluations), subject, params, spacings)
            denoisers = {"network": subject.denoiser, "exact": subject.truth.denoiser}
            for which, denoiser in denoisers.items():
                points, cost = sampled(subject, ready, times, denoiser, _N)
                assert cost == evaluations
                found[name, spacing, evaluations, which] = energy_distance(points, true).value
    return found


def mean(found: Iterable[dict[Row, float]], row: Row) -> tuple[float, float]:
    values = [one[row] for one in found]
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    assert all(name in SAMPLERS for name, _ in _CANDIDATES)
    params = load()

    def run(seed: int) -> dict[Row, float]:
        seeded = params.model_copy(update={"seed": seed, "device": "cpu"})
        with tempfile.TemporaryDirectory() as folder:
            return distances(seeded, trained(seeded, Path(folder)))

    found = [run(seed) for seed in (*_CHOSEN_ON, *_SCORED_ON)]
    chosen_on, scored_on = found[: len(_CHOSEN_ON)], found[len(_CHOSEN_ON) :]
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
