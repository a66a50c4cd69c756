"""Times and coefficients for few steps, fitted to the exact denoiser and to the network.

python -m benchmarks.study_bespoke           # `make spacings-full`: measure what is missing
python -m benchmarks.study_bespoke --table   # print the table of docs/samplers.md
python -m benchmarks.study_bespoke --trial   # three steps, a few iterations, into checkpoints/

A cell is a number of evaluations and the denoiser for which the solver was fitted. The search for
the exact denoiser begins with UniPC at the times of benchmarks/study_spacings.json, and that for
the network with the solver that was found there. It has many local minima: it begins several times,
with some noise on all variables, and the best end is refined with more points. Solvers are scored
on points that are used for nothing else. Cells that are in benchmarks/study_bespoke.json are not
measured again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.resumable import Results, run_study, training_settings
from benchmarks.samplers import percent, with_error
from benchmarks.study_spacings import FULL as SPACINGS
from ddpm.core.compute import stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.reference.model_under_test import ModelUnderTest, load_model_under_test
from ddpm.sampling.bespoke import BespokeSolver
from ddpm.sampling.multistep import UniPC
from ddpm.sampling.one_step import ODE
from ddpm.studies.bespoke import fit_bespoke, perturbed
from ddpm.studies.reverse_kl import reverse_kl
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS, MODEL

_FILE = Path("benchmarks/study_bespoke.json")
# Standard deviation of the noise on the variables at the start.
_DEVIATION = 0.02
# Of the flow from which the network's own error is subtracted.
_FLOW = ODE(tolerance=1e-4)


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        evaluations: Numbers of evaluations.
        starts: Number of searches.
        points: Points of each search, and of its refinement.
        iterations: Largest number of iterations of each.
        scored: Points of the score.
        file: The results.
    """

    evaluations: Sequence[int]
    starts: int
    points: tuple[int, int]
    iterations: int
    scored: int
    file: Path


FULL = Study((5,), 8, (3000, 8000), 40, 32_768, _FILE)
TRIAL = Study((5,), 2, (50, 100), 2, 200, CHECKPOINTS / _FILE.name)


def measure(study: Study) -> None:
    """Measure the cells that are not in the file of results."""
    settings = training_settings(load_params(), set()) | {
        "starts": study.starts,
        "points": list(study.points),
        "iterations": study.iterations,
        "scored": study.scored,
    }
    results = Results.resume(study.file, settings)
    model = load_model_under_test(MODEL)
    spacings = Results.read(SPACINGS.file).cells
    for evaluations in study.evaluations:
        times = spacings[f"unipc/{evaluations}"]["full"]["times"]
        start = BespokeSolver.like(UniPC(), model.schedule, times)
        for name, denoiser in denoisers_of(model).items():
            key = f"{evaluations}/{name}"
            if key not in results.cells:
                solver = search(model, denoiser, start, study)
                cell = {
                    "times": list(solver.times),
                    "coefficients": [list(row) for row in solver.coefficients],
                    "scores": {
                        scored: score(model, solver, of, n=study.scored)
                        for scored, of in denoisers_of(model).items()
                    },
                }
                results.add(key, cell)
            start = solver_of(results.cells[key])


def search(
    model: ModelUnderTest, denoiser: Denoiser, start: BespokeSolver, study: Study
) -> BespokeSolver:
    """Fit a solver from several starts, and refine the best."""
    few, many = study.points
    ends = []
    for k in tqdm(range(study.starts), desc="search", unit="start", disable=None):
        generator = stream(model.seed, f"study_bespoke/start/{k}")
        begin = perturbed(start, model.schedule, deviation=_DEVIATION, generator=generator)
        end = fit_bespoke(model, denoiser, begin, n=few, iterations=study.iterations)
        kl = reverse_kl(model, end, denoiser, end.times, n=many, name="study_bespoke/choose")
        ends.append((kl.cut.value, k, end))
        print(f"start {k}: {kl.cut.value:.3f} nats", flush=True)
    *_, best = min(ends)
    return fit_bespoke(model, denoiser, best, n=many, iterations=study.iterations)


def denoisers_of(model: ModelUnderTest) -> dict[str, Denoiser]:
    """The denoisers for which solvers are fitted, by name."""
    return {"exact": model.exact.denoiser, "network": model.denoiser}


def solver_of(cell: dict[str, Any]) -> BespokeSolver:
    """The solver of a cell."""
    return BespokeSolver(times=cell["times"], coefficients=cell["coefficients"])


def score(
    model: ModelUnderTest, solver: BespokeSolver, denoiser: Denoiser, *, n: int
) -> dict[str, Any]:
    """KL(solver || truth) on other points, and its difference from that of the denoiser's flow."""
    solver_kl = reverse_kl(model, solver, denoiser, solver.times, n=n, name="study_bespoke")
    start = [float(model.schedule.T)]
    flow_kl = reverse_kl(model, _FLOW, denoiser, start, n=n, name="study_bespoke")
    return {
        "kl": solver_kl.value._asdict(),
        "cut": solver_kl.cut._asdict(),
        "above_flow": solver_kl.minus(flow_kl)[1]._asdict(),
        "folded": solver_kl.folded,
    }


def table(results: Results) -> str:
    """Scores of all solvers on both denoisers, as Markdown."""
    lines = [
        "| evaluations | fitted to | used with | KL | cut at 30 | above its flow | folded |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in sorted(results.cells):
        evaluations, fitted = key.split("/")
        for used, part in results.cells[key]["scores"].items():
            values = (with_error(**part[name]) for name in ("kl", "cut", "above_flow"))
            folded = percent(part["folded"])
            lines.append(f"| {evaluations} | {fitted} | {used} | {' | '.join(values)} | {folded} |")
    return "\n".join(lines)


def present(study: Study) -> None:
    """Print the table."""
    print(table(Results.read(study.file)))


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
