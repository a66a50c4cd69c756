"""Measure the model against the exact truth: denoising, likelihood, and what it remembers."""

import numpy as np
import torch

from ddpm.denoising import denoise
from ddpm.files import read_points, sha256, write_arrays, write_csv, write_json
from ddpm.measurement import (
    bound_totals,
    denoising_by_time,
    denoising_totals,
    density_fields,
    likelihood,
    log_spaced,
    memory,
    score_fields,
)
from ddpm.params import load
from ddpm.subject import load_subject
from stages.common import DENOISING_CSV, FIELDS, MEASURED, MEMORY_CSV, MODEL, TEST, TRAIN, run

# Of the curves over t: what a plot can show, and git can bear.
_ROWS = 150
_MEMORY_TIMES, _MEMORY_POINTS = 40, 500
# Parts of T at which the score is drawn, and the square on which, model units.
_SCORE_TIMES = (0.01, 0.05, 0.2, 0.6)
_SCORE_REACH, _SCORE_GRID = 2.6, 53
# Data units: the spiral spans [-1, 1]. A picture shows less than a mean, and may be solved so.
_DENSITY_REACH, _DENSITY_TOLERANCE = 1.25, 1e-3


def main() -> None:
    """Write what is measured, its curves over t, and the fields behind the figures."""
    params = load()
    sizes, T = params.evaluate, params.diffusion.T
    subject = load_subject(MODEL, params, TRAIN)
    train, test = (
        subject.scaling.to_model(
            torch.from_numpy(read_points(path, stage="generate", n=n)).double()
        )
        for path, n in ((TRAIN, params.data.n_train), (TEST, params.data.n_test))
    )

    denoised = denoise(
        subject.denoiser,
        subject.truth.denoiser,
        subject.fresh(sizes.n_denoising, "measure/denoising"),
        seed=params.seed,
    )
    found = likelihood(
        subject, n=sizes.n_likelihood, n_exact=sizes.n_exact, tolerance=sizes.tolerance
    )
    remembered, distances = memory(
        subject,
        train,
        test,
        n=sizes.n_memory,
        times=log_spaced(T, _MEMORY_TIMES),
        points=_MEMORY_POINTS,
        tolerance=sizes.tolerance,
    )
    score = score_fields(
        subject, [part * T for part in _SCORE_TIMES], reach=_SCORE_REACH, grid=_SCORE_GRID
    )
    density = density_fields(
        subject, reach=_DENSITY_REACH, grid=sizes.density_grid, tolerance=_DENSITY_TOLERANCE
    )
    print(remembered["verdict"])

    write_json(
        MEASURED,
        {
            "denoising": denoising_totals(denoised),
            "likelihood": found | bound_totals(denoised, subject),
            "memory": remembered,
            "model": sha256(MODEL, stage="train"),
        },
    )
    write_csv(DENOISING_CSV, denoising_by_time(denoised, T, _ROWS))
    write_csv(MEMORY_CSV, distances)
    fields = {name: values.float().numpy() for name, values in (score | density).items()}
    write_arrays(FIELDS, fields | {"density_reach": np.array(_DENSITY_REACH)})


if __name__ == "__main__":
    run(main)
