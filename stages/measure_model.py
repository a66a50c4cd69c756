"""Measure the model against the exact distribution: denoising, likelihood, and memorisation."""

import numpy as np
import torch

from ddpm.core.files import sha256
from ddpm.networks.model_file import load_model
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.studies.denoising import (
    bound_totals,
    denoising_by_time,
    denoising_totals,
    log_spaced,
    measure_denoising,
)
from ddpm.studies.fields import density_fields, score_fields
from ddpm.studies.likelihood import measure_likelihood
from ddpm.studies.memorisation import decades, measure_memorisation
from ddpm.studies.validation import measure_validation
from ddpm.training.loop import validation_batch
from ddpm.training.task import Task
from stages.common.files import read_points, refuse_other_points, write_arrays, write_json
from stages.common.params import load_params
from stages.common.paths import DENOISING_CSV, FIELDS, MEASURED, MEMORY_CSV, MODEL, TEST, TRAIN
from stages.common.run import run
from stages.common.tables import write_table

# Rows of the curves over t: enough for a plot, and few enough for git.
_ROWS = 150
_MEMORY_TIMES, _MEMORY_POINTS = 25, 500
# Fractions of T at which the score is drawn, and the square on which, in model units.
_SCORE_TIMES = (0.01, 0.05, 0.2, 0.6)
_SCORE_REACH, _SCORE_GRID = 2.6, 53
# In data units: the spiral spans [-1, 1]. A picture needs less precision than a mean.
_DENSITY_REACH, _DENSITY_TOLERANCE = 1.25, 1e-3


def main() -> None:
    """Write the measurements, their curves over t, and the fields behind the figures."""
    settings = load_params().measure_model
    trained = load_model(MODEL)
    model = ModelUnderTest.from_model(trained)
    T = model.schedule.T
    train, test = (
        model.scaling.to_model(torch.from_numpy(read_points(path, stage="generate")).double())
        for path in (TRAIN, TEST)
    )
    refuse_other_points(trained.description.data_sha256, MODEL, TRAIN)

    errors = measure_denoising(
        model.denoiser,
        model.exact.denoiser,
        model.fresh(settings.n_denoising, "measure/denoising"),
        seed=model.seed,
    )
    likelihood = measure_likelihood(
        model, n=settings.n_likelihood, n_exact=settings.n_exact, tolerance=settings.tolerance
    )
    memorisation, distances = measure_memorisation(
        model,
        train,
        test,
        n=settings.n_memory,
        times=log_spaced(T, _MEMORY_TIMES),
        points=_MEMORY_POINTS,
        tolerance=settings.tolerance,
    )
    task = Task(model.schedule, model.denoiser.prediction, trained.description.loss)
    validation = measure_validation(model, validation_batch(task, test.float(), model.seed))
    score = score_fields(
        model, [part * T for part in _SCORE_TIMES], reach=_SCORE_REACH, grid=_SCORE_GRID
    )
    density = density_fields(
        model, reach=_DENSITY_REACH, grid=settings.density_grid, tolerance=_DENSITY_TOLERANCE
    )
    for name, first, last in decades(T):
        print(f"t = {first} to {last}: {memorisation[name]['verdict']}")

    write_json(
        MEASURED,
        {
            "denoising": denoising_totals(errors),
            "likelihood": likelihood | bound_totals(errors, model),
            "memory": memorisation,
            "model": sha256(MODEL),
            "validation": validation,
        },
    )
    write_table(DENOISING_CSV, denoising_by_time(errors, T, _ROWS))
    write_table(MEMORY_CSV, distances)
    fields = {name: values.float().numpy() for name, values in (score | density).items()}
    write_arrays(FIELDS, fields | {"density_reach": np.array(_DENSITY_REACH)})


if __name__ == "__main__":
    run(main)
