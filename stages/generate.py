"""Draw training and test points from the spiral."""

import numpy as np

from ddpm.datasets import SPIRAL
from ddpm.files import write_array
from ddpm.params import load
from ddpm.runtime import stream
from stages.common import TEST, TRAIN, run


def main() -> None:
    """Write the points, each set from its own random stream."""
    params = load()
    for path, n in ((TRAIN, params.data.n_train), (TEST, params.data.n_test)):
        generator = stream(params.seed, f"generate/{path.stem}")
        points = SPIRAL.sample(n, params.data.noise, generator=generator)
        write_array(path, points.numpy().astype(np.float32))


if __name__ == "__main__":
    run(main)
