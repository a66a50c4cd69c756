"""Divide the points of a file at random into training and test points."""

from pathlib import Path

import numpy as np
import torch

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams
from ddpm.data.point_file import SOURCES, PointFile
from stages.common.dataset import read_point_file
from stages.common.files import labels_of, write_array
from stages.common.params import load_params, select
from stages.common.paths import TEST, TRAIN
from stages.common.run import run

# Fewer points of a label say nothing of its distribution.
_MIN_OF_LABEL = 5


def main() -> None:
    """Write points and labels of both sets; without labels, all are 0."""
    params = load_params(kind=PointsParams)
    source = select(params, "dataset", SOURCES)
    assert isinstance(source, PointFile)
    table = read_point_file(Path(source.path))
    order = torch.randperm(len(table.points), generator=stream(params.seed, "generate/file"))
    train, rest = order[: params.data.n_train], order[params.data.n_train :]
    counts = np.bincount(table.labels[train.numpy()], minlength=len(table.classes))
    for name, count in zip(table.classes, counts, strict=False):
        if count < _MIN_OF_LABEL:
            raise UserError(
                f"label {name!r} of {source.path} has {count} points among those for training but"
                f" should have at least {_MIN_OF_LABEL}; raise data.n_train in params.yaml, or"
                " leave the label out of the file"
            )
    for path, chosen in ((TRAIN, train), (TEST, rest[: params.data.n_test])):
        write_array(path, table.points[chosen.numpy()].astype(np.float32))
        write_array(labels_of(path), table.labels[chosen.numpy()])


if __name__ == "__main__":
    run(main)
