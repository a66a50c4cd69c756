"""Validate all of pipelines/points/params.yaml and the file of points, as `check` for the root."""

from pathlib import Path

import numpy as np

from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams
from ddpm.core.settings import choose, validate_sections
from ddpm.data.point_file import SOURCES, PointFile
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import SPACINGS, sampling_times
from stages.common.check_training import check_training
from stages.common.dataset import read_point_file
from stages.common.files import write_text
from stages.common.params import load_params, select
from stages.common.paths import PARAMS_OK
from stages.common.run import run
from stages.common.sampler import sampler_of


def main() -> None:
    """Write a constant file, on which all other stages depend, if everything is allowed."""
    params = load_params(kind=PointsParams)
    source = select(params, "dataset", SOURCES)
    if not isinstance(source, PointFile):
        raise UserError(
            f"dataset is {params.dataset} but here it should be file; for {params.dataset}, whose"
            " distribution is known, use the pipeline at the root"
        )
    schedule = check_training(params)
    validate_sections("samplers", params.samplers, SAMPLERS)
    sampler_of(params, schedule)
    choose("sample.spacing", params.sample.spacing, SPACINGS)
    sampling_times(params.sample.spacing, schedule, params.sample.steps)
    if not PREDICTIONS[params.prediction].regular:
        raise UserError(
            f"prediction is {params.prediction} but likelihoods are computed at t = 0, where only"
            " eps and v are finite; change prediction in params.yaml"
        )
    points = read_point_file(Path(source.path)).points
    n, data = len(points), params.data
    if data.n_train + data.n_test > n:
        raise UserError(
            f"{source.path} has {n} points but data.n_train is {data.n_train} and data.n_test"
            f" {data.n_test}; lower them in params.yaml, to {n - n // 5} and {n // 5} for example"
        )
    copies = n - len(np.unique(points, axis=0))
    if copies:
        print(
            f"note: {copies} of {n} points are copies of others, so that held-out points may be"
            " among the training points; then likelihoods say little"
        )
    write_text(PARAMS_OK, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
