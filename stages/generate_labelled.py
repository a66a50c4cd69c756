"""Draw training and test points from the data set, with the label of each."""

import numpy as np

from ddpm.core.compute import stream
from ddpm.core.params import TrainingParams
from stages.common.dataset import known_dataset
from stages.common.files import labels_of, write_array
from stages.common.params import load_params
from stages.common.paths import TEST, TRAIN
from stages.common.run import run


def main() -> None:
    """Write points and labels; the points are those that `generate` would write."""
    params = load_params(kind=TrainingParams)
    dataset = known_dataset(params)
    for path, n in ((TRAIN, params.data.n_train), (TEST, params.data.n_test)):
        generator = stream(params.seed, f"generate/{path.stem}")
        points, labels = dataset.sample_with_labels(n, generator=generator)
        write_array(path, points.numpy().astype(np.float32))
        write_array(labels_of(path), labels.numpy())


if __name__ == "__main__":
    run(main)
