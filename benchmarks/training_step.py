"""Where the time of a training step goes: python -m benchmarks.training_step.

Each part is timed alone, as the least mean of several rounds, with the parameters of params.yaml.
Batches are drawn on a second thread, so that only the larger of the two sums counts where a second
core is free. The last lines compare the arithmetic with what the matrix product alone reaches.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ddpm.core.compute import stream
from ddpm.data.datasets import DATASETS
from ddpm.data.scaling import Scaling
from ddpm.networks.mlp import ResidualMLP
from ddpm.networks.mlp_gradient import MLPGradient
from ddpm.networks.registry import NETWORKS
from ddpm.training import loop
from ddpm.training.neighbours import NeighbourSets
from stages.common.params import load_params, select
from stages.common.task import task_of

_ROUNDS, _SECONDS = 7, 0.15


def milliseconds(function: Callable[[], object]) -> float:
    """Least mean time of a call, over several rounds."""
    function()
    start = time.perf_counter()
    function()
    repeats = max(1, round(_SECONDS / (time.perf_counter() - start)))
    rounds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        rounds.append((time.perf_counter() - start) / repeats)
    return 1000 * min(rounds)


def multiplications(network: ResidualMLP) -> int:
    """Multiplications of one point in a forward and a backward pass."""
    layers = (network.read_in, *network.blocks, network.read_out)
    weights = [layer.weight.numel() for layer in layers]
    # Output, gradient of the weights, and that of the input, which the first layer does not need.
    return 3 * sum(weights) - weights[0]


def main() -> None:
    params = load_params()
    task = task_of(params)
    points = select(params, "dataset", DATASETS).sample(
        params.data.n_train, generator=stream(0, "points")
    )
    points = Scaling.from_points(points).to_model(points).float()
    network = select(params, "network", NETWORKS).create(
        task.schedule.T, generator=stream(0, "network")
    )
    assert isinstance(network, ResidualMLP)
    nn.init.normal_(network.read_out.weight, generator=stream(0, "read out"))
    weights, batch = loop._as_one_vector(network), params.train.batch
    gradient = MLPGradient(network, batch)
    generator = stream(0, "batches")
    sets = NeighbourSets.of(points, params.loss.neighbours, generator=stream(0, "sets"))
    steps = max(1, loop._CHUNK_POINTS // batch)
    drawn = task.batch(sets, (steps, batch), generator=generator)
    (features,) = gradient.inputs(drawn.x_t, drawn.t)
    optimizer = torch.optim.AdamW([weights], lr=1e-9, fused=True)
    average = weights.detach().clone()
    width = network.settings.width
    h, s, square = (np.ones((rows, width), np.float32) for rows in (batch, batch, width))
    product = milliseconds(lambda: np.matmul(s, square, out=h))
    rate = 2 * batch * width**2 / product / 1e6
    main_thread = {
        "loss and gradient": milliseconds(lambda: gradient((features[0],), drawn.target[0])),
        "clipping the gradient": milliseconds(
            lambda: nn.utils.clip_grad_norm_([weights], params.train.grad_clip)
        ),
        "AdamW": milliseconds(optimizer.step),
        "average of the weights": milliseconds(lambda: average.lerp_(weights.data, 1e-3)),
    }
    second_thread = {
        "drawing a batch": milliseconds(
            lambda: task.batch(sets, (steps, batch), generator=generator)
        )
        / steps,
        "features of a batch": milliseconds(lambda: gradient.inputs(drawn.x_t, drawn.t)) / steps,
    }
    for thread, parts in (("training", main_thread), ("batches", second_thread)):
        print(f"{thread:24} {sum(parts.values()):6.3f} ms a step")
        for name, time_of_part in parts.items():
            print(f"  {name:22} {time_of_part:6.3f}")
    flops = 2 * batch * multiplications(network)
    reached = flops / main_thread["loss and gradient"] / 1e6
    print(f"arithmetic of a step     {flops / 1e6:6.1f} million operations")
    print(f"loss and gradient        {reached:6.1f} GFLOP/s, {reached / rate:.0%} of")
    print(f"the matrix product alone {rate:6.1f} GFLOP/s")


if __name__ == "__main__":
    main()
