"""Samplers beside each other, on the network and on the exact denoiser, at equal cost.

With the exact denoiser what is left is the sampler's own error; the network adds what it has not
learned. Every cell starts from the same noise.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ddpm.metrics import (
    beside_floor,
    energy_distance,
    mean_distances_within,
    sliced_wasserstein,
)
from ddpm.params import Params, choose
from ddpm.process import Denoiser
from ddpm.reverse import Sampler, draw_samples
from ddpm.samplers import SAMPLERS, sampler_named, sampler_of
from ddpm.schedules import Schedule
from ddpm.spacings import SPACINGS, choose_spacing, has_signal_at_end, moments
from ddpm.subject import LogDensity, Subject

Points = Float64[Tensor, "n 2"]

# Points sampled at once; small enough that both cores have work.
_BLOCK = 1250


COLUMNS = (
    "sampler",
    "spacing",
    "evaluations",
    "denoiser",
    *(
        f"{distance}{part}"
        for distance in ("energy_distance", "sliced_wasserstein")
        for part in ("", "_se", "_floor")
    ),
    "log_density",
    "log_density_se",
    "log_density_truth",
    "strays",
)


class Cell(NamedTuple):
    """A sampler, where it stops, and how many evaluations it may spend."""

    sampler: str
    spacing: str
    evaluations: int


class Compared(NamedTuple):
    """A cell with a denoiser: what it has cost, its samples in data units, and their measures."""

    cell: Cell
    denoiser: str
    evaluations: int
    points: Points
    measures: dict[str, float]

    def row(self) -> dict[str, Any]:
        """The values of COLUMNS."""
        named = {
            "sampler": self.cell.sampler,
            "spacing": self.cell.spacing,
            "evaluations": self.evaluations,
            "denoiser": self.denoiser,
        }
        return named | self.measures


def cells_of(listed: Mapping[str, Sequence[int]]) -> list[Cell]:
    """Cells from "sampler/spacing" to evaluations, as params.yaml lists them.

    Raises:
        UserError: If a name is not of two known parts.
    """
    cells = []
    for name, budgets in listed.items():
        sampler, _, spacing = name.partition("/")
        choose(f"the sampler of compare.cells.{name}", sampler, SAMPLERS)
        choose_spacing(f"the spacing of compare.cells.{name}", spacing)
        cells += [Cell(sampler, spacing, evaluations) for evaluations in budgets]
    return cells


def steps_of(cell: Cell, params: Params) -> int:
    """How many steps a cell's evaluations are enough for."""
    return sampler_named(cell.sampler, params).steps_within(cell.evaluations)


def has_meaning(cell: Cell, params: Params, schedule: Schedule) -> bool:
    """Whether a cell can be run: no more steps than T, and no log SNR that is infinite."""
    kind = SAMPLERS[cell.sampler]
    spacing = SPACINGS.get(cell.spacing)
    uses_log_snr = kind.uses_log_snr or spacing is None or spacing.uses_log_snr
    return steps_of(cell, params) <= schedule.T and (
        has_signal_at_end(schedule) or not uses_log_snr
    )


def cells_to_run(listed: Iterable[Cell], params: Params, schedule: Schedule) -> list[Cell]:
    """The cells that have a meaning, each number of steps of a sampler and spacing once."""
    distinct = {
        (cell.sampler, cell.spacing, steps_of(cell, params)): cell
        for cell in listed
        if has_meaning(cell, params, schedule)
    }
    return list(distinct.values())


class Judge:
    """Measures samples against one true set, beside the floors, all in data units.

    Args:
        subject: Model and truth.
        n: Points of each set.
        null_pairs: Pairs of true sets behind the floors.
        directions: Of the sliced Wasserstein distance.
    """

    def __init__(self, subject: Subject, n: int, *, null_pairs: int, directions: int) -> None:
        self._true, pairs = subject.true_sets(n, null_pairs, "compare")
        sliced = partial(sliced_wasserstein, directions=directions)
        within = mean_distances_within(self._true)
        self._distances = {
            "energy_distance": partial(energy_distance, y_within=within),
            "sliced_wasserstein": sliced,
        }
        self._null = {
            "energy_distance": [energy_distance(*pair) for pair in pairs],
            "sliced_wasserstein": [sliced(*pair) for pair in pairs],
        }
        self._log_density = LogDensity(subject, self._true, *itertools.chain(*pairs))

    def __call__(self, points: Points) -> dict[str, float]:
        """Both distances and the mean log density under the truth, see `LogDensity`."""
        found: dict[str, float] = {}
        for name, distance in self._distances.items():
            one = beside_floor(distance(points, self._true), self._null[name])
            found |= {name: one.value, f"{name}_se": one.se, f"{name}_floor": one.floor}
        typical, truth = self._log_density(points, "compare"), self._log_density.truth
        return found | {
            "log_density": typical.mean.value,
            "log_density_se": typical.mean.se,
            "log_density_truth": truth.value,
            "strays": typical.strays,
        }


def compare(
    subject: Subject,
    params: Params,
    cells: Iterable[Cell],
    spacings: Mapping[str, Mapping[str, Sequence[float]]],
    judge: Judge,
) -> list[Compared]:
    """Sample every cell with the network and, where it is not too dear, the exact denoiser.

    Args:
        subject: Model and truth.
        params: Settings of the samplers, sizes, seed.
        cells: What to sample.
        spacings: The optimised ones; see `spacings.moments`.
        judge: Measures the samples.

    Raises:
        UserError: If a cell has no meaning; see `has_meaning`.
    """
    compared = []
    for cell in tqdm(list(cells), desc="compare", unit="cell", disable=None):
        sampler, times = plan(cell, subject, params, spacings)
        denoisers = {"network": subject.denoiser, "exact": subject.truth.denoiser}
        if cell.evaluations > params.compare.exact_up_to:
            del denoisers["exact"]
        for name, denoiser in denoisers.items():
            points, evaluations = sampled(subject, sampler, times, denoiser, params.compare.n)
            compared.append(Compared(cell, name, evaluations, points, judge(points)))
    return compared


def plan(
    cell: Cell,
    subject: Subject,
    params: Params,
    spacings: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[Sampler, list[float]]:
    """The sampler of a cell, and where it stops so that it spends no more than it may."""
    schedule = subject.denoiser.schedule
    sampler = sampler_of(params, schedule, cell.sampler)
    return sampler, moments(cell.spacing, schedule, steps_of(cell, params), spacings)


def sampled(
    subject: Subject, sampler: Sampler, times: Sequence[float], denoiser: Denoiser, n: int
) -> tuple[Points, int]:
    """Samples in data units, and what each has cost."""
    x, evaluations = draw_samples(
        sampler,
        denoiser,
        times,
        n=n,
        block=_BLOCK,
        seed=subject.seed,
        device=torch.device("cpu"),
        clean=subject.fresh(n, "compare/clean"),
    )
    return subject.scaling.to_data(x.double()), evaluations
