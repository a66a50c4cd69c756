"""Draw training and test points from the data set."""

import numpy as np

from ddpm.core.compute import stream
from stages.common.dataset import known_dataset
from stages.common.files import write_array
from stages.common.params import load_params
from stages.common.paths import TEST, TRAIN
from stages.common.run import run


def main() -> None:
    """Write the points, each set from its own random stream."""
    params = load_params()
    dataset = known_dataset(params)
    for path, n in ((TRAIN, params.data.n_train), (TEST, params.data.n_test)):
        generator = stream(params.seed, f"generate/{path.stem}")
        points = dataset.sample(n, generator=generator)
        write_array(path, points.numpy().astype(np.float32))


if __name__ == "__main__":
    run(main)
