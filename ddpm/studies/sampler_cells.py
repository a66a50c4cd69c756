"""Cells of a comparison of samplers: a sampler, a spacing, and a number of evaluations.

The stage `check` validates with it what params.yaml lists, `sampler_comparison` samples the cells.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ddpm.core.errors import UserError
from ddpm.core.settings import PARAMS_FILE, choose
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import (
    SPACINGS,
    OptimisedTimes,
    choose_spacing,
    require_terminal_signal,
    sampling_times,
)


class Cell(NamedTuple):
    """A sampler with a spacing, and the number of denoiser evaluations that it may use."""

    sampler: str
    spacing: str
    evaluations: int

    @property
    def name(self) -> str:
        """Name of the cell in params.yaml, "sampler/spacing"."""
        return f"{self.sampler}/{self.spacing}"


def parse_cells(cells: Mapping[str, Sequence[int]]) -> list[Cell]:
    """Parse the cells of params.yaml, which map "sampler/spacing" to numbers of evaluations.

    Raises:
        UserError: If a name does not consist of a known sampler and a known spacing.
    """
    parsed = []
    for name, budgets in cells.items():
        sampler, _, spacing = name.partition("/")
        choose(f"the sampler of compare_samplers.cells.{name}", sampler, SAMPLERS)
        choose_spacing(f"the spacing of compare_samplers.cells.{name}", spacing)
        parsed += [Cell(sampler, spacing, evaluations) for evaluations in budgets]
    return parsed


def steps_of(cell: Cell, samplers: Mapping[str, Sampler]) -> int:
    """Largest number of steps that the evaluations of a cell allow."""
    return samplers[cell.sampler].steps_within(cell.evaluations)


def is_valid(cell: Cell, samplers: Mapping[str, Sampler], schedule: Schedule) -> bool:
    """Whether a cell can run: it has at most T steps, and does not need an infinite log SNR."""
    spacing = SPACINGS.get(cell.spacing)
    uses_log_snr = samplers[cell.sampler].uses_log_snr or spacing is None or spacing.uses_log_snr
    return steps_of(cell, samplers) <= schedule.T and (
        schedule.has_terminal_signal or not uses_log_snr
    )


def valid_cells(
    cells: Iterable[Cell], samplers: Mapping[str, Sampler], schedule: Schedule
) -> list[Cell]:
    """Cells that can run; of those with the same number of steps, only the last is included."""
    distinct = {
        (cell.sampler, cell.spacing, steps_of(cell, samplers)): cell
        for cell in cells
        if is_valid(cell, samplers, schedule)
    }
    return list(distinct.values())


def reference_cell(name: str, cells: Sequence[Cell]) -> Cell:
    """Find the cell from which differences are taken: the costliest of those called `name`.

    Args:
        name: Value of compare_samplers.reference, "sampler/spacing".
        cells: Cells that can run; see `valid_cells`.

    Raises:
        UserError: If none of the cells has this name.
    """
    named = [cell for cell in cells if cell.name == name]
    if not named:
        names = ", ".join(dict.fromkeys(cell.name for cell in cells))
        raise UserError(
            f"compare_samplers.reference is '{name}' but the cells that can run on this schedule"
            f" are {names}; change compare_samplers.reference in {PARAMS_FILE}"
        )
    return max(named, key=lambda cell: cell.evaluations)


def plan(
    cell: Cell, samplers: Mapping[str, Sampler], schedule: Schedule, optimised: OptimisedTimes
) -> tuple[Sampler, list[float]]:
    """Sampler and times of a cell, with as many steps as its evaluations allow."""
    sampler = samplers[cell.sampler]
    if sampler.uses_log_snr:
        require_terminal_signal(schedule, f"sampler {cell.sampler}")
    return sampler, sampling_times(cell.spacing, schedule, steps_of(cell, samplers), optimised)
