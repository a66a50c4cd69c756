"""The best times for a sampler with few steps, searched without a limit on the exact denoiser.

python -m benchmarks.study_spacings           # `make spacings-full`: measure what is missing
python -m benchmarks.study_spacings --table   # print the table of docs/samplers.md
python -m benchmarks.study_spacings --trial   # two short searches into checkpoints/

A cell is a sampler with a number of evaluations. Its times are searched with many points and from
several starts until nothing is gained, and as the pipeline does; both are scored on the same
points, used for nothing else. Cells that are in benchmarks/study_spacings.json are not measured
again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.resumable import Results, run_study, selected
from benchmarks.samplers import percent, with_error
from ddpm.reference.model_under_test import ModelUnderTest, load_model_under_test
from ddpm.sampling.sampler import Sampler
from ddpm.studies.optimised_spacings import divergence_from_truth, optimise
from ddpm.studies.reverse_kl import reverse_kl
from stages.common.params import load_params
from stages.common.paths import CHECKPOINTS, MODEL
from stages.common.sampler import sampler_of

_FILE = Path("benchmarks/study_spacings.json")
# Sections of params.yaml that determine the exact denoiser and the samplers.
_SECTIONS = {
    *("seed", "dataset", "datasets", "data", "schedule", "schedules", "diffusion", "samplers"),
}


class Study(NamedTuple):
    """What is measured, and where the results are.

    Attributes:
        samplers: Names of deterministic samplers.
        evaluations: Numbers of evaluations.
        points: Points of the search.
        iterations: Largest number of iterations of each descent.
        descents: Number of descents.
        scored: Points of the score.
        file: The results.
    """

    samplers: Sequence[str]
    evaluations: Sequence[int]
    points: int
    iterations: int
    descents: int
    scored: int
    file: Path


FULL = Study(("unipc", "dpmpp_2m"), (5, 6, 8, 10, 15, 20), 4096, 100, 3, 32_768, _FILE)
TRIAL = Study(("unipc",), (3, 4), 50, 2, 2, 100, CHECKPOINTS / _FILE.name)


def measure(study: Study) -> None:
    """Measure the cells that are not in the file of results."""
    params = load_params()
    search = params.optimise_spacings
    settings = selected(params, params.model_dump(mode="json", include=_SECTIONS)) | {
        "pipeline": {"points": search.n, "iterations": search.iterations},
        "points": study.points,
        "iterations": study.iterations,
        "descents": study.descents,
        "scored": study.scored,
    }
    results = Results.resume(study.file, settings)
    model = load_model_under_test(MODEL)
    cells = [
        (name, evaluations)
        for name in study.samplers
        for evaluations in study.evaluations
        if f"{name}/{evaluations}" not in results.cells
    ]
    for name, evaluations in tqdm(cells, desc="spacings", unit="search", disable=None):
        sampler = sampler_of(params, model.schedule, name)
        searches = {
            "full": (study.points, study.iterations, study.descents),
            "pipeline": (search.n, search.iterations, 1),
        }
        cell = {
            key: search_and_score(model, sampler, evaluations, *sizes, scored=study.scored)
            for key, sizes in searches.items()
        }
        results.add(f"{name}/{evaluations}", cell)


def search_and_score(
    model: ModelUnderTest,
    sampler: Sampler,
    steps: int,
    points: int,
    iterations: int,
    descents: int,
    *,
    scored: int,
) -> dict[str, Any]:
    """Search times for the exact denoiser; returns them with their KL on other points."""
    denoiser = model.exact.denoiser
    objective = divergence_from_truth(model, sampler, denoiser, n=points)
    times = optimise(objective, model.schedule, steps, iterations=iterations, descents=descents)
    score = reverse_kl(model, sampler, denoiser, times, n=scored, name="study_spacings")
    return {"times": times, "kl": score.value._asdict(), "folded": score.folded, "mass": score.mass}


def table(results: Results) -> str:
    """KL of both searches, and their ratio, as Markdown."""
    lines = [
        "| sampler | evaluations | without a limit | folded | as in the pipeline | ratio |",
        "|---|---|---|---|---|---|",
    ]
    keys = [(sampler, int(number)) for sampler, number in (key.split("/") for key in results.cells)]
    for sampler, evaluations in sorted(keys, key=lambda key: (FULL.samplers.index(key[0]), key[1])):
        cell = results.cells[f"{sampler}/{evaluations}"]
        full, pipeline = cell["full"], cell["pipeline"]
        shown = [with_error(**part["kl"]) for part in (full, pipeline)]
        ratio = pipeline["kl"]["value"] / full["kl"]["value"]
        folded = percent(full["folded"])
        lines.append(
            f"| {sampler} | {evaluations} | {shown[0]} | {folded} | {shown[1]} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def present(study: Study) -> None:
    """Print the table."""
    print(table(Results.read(study.file)))


if __name__ == "__main__":
    run_study(__doc__, FULL, TRIAL, measure, present)
