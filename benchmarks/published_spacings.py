"""Times by published methods, for the comparison in `benchmarks.study_samplers`.

Both methods divide a fine grid of noise levels into as many steps as asked for, so that the sum of
a cost over the steps is least, by dynamic programming. The cost of a step is

- `align_your_steps`: the integral over the step, d sigma / sigma^3, of the squared distance between
  the denoiser at x_sigma and at the start of the step; both are the same point with less and more
  noise. The sum bounds KL for a sampler that adds noise.
- `gits`: the distance of one DDIM step from the flow's own trajectory, at the step's end.

Noise levels are sigma_ve = sigma / sqrt(alpha_bar). The grid is uniform in their logarithm.

References:
    Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507
    Chen et al. 2024 (GITS), https://arxiv.org/abs/2405.11326
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import integrate
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
Costs = Float64[Tensor, "m m"]

_GRID, _LOWEST = 80, 0.002


class Grid(NamedTuple):
    """Decreasing noise levels sigma_ve, and their times."""

    sigmas: Sequence[float]
    times: Sequence[float]


def published_spacings(
    model: ModelUnderTest, steps: Sequence[int], *, n: int
) -> dict[str, dict[str, list[float]]]:
    """Times of both methods by name and number of steps, for the exact denoiser, on n points."""
    grid = _grid(model.schedule)
    costs = {method.__name__: method(model, grid, n) for method in (align_your_steps, gits)}
    return {
        name: {str(count): [grid.times[k] for k in shortest_path(cost, count)] for count in steps}
        for name, cost in costs.items()
    }


def align_your_steps(model: ModelUnderTest, grid: Grid, n: int) -> Costs:
    """Cost of a step from each noise level (row) to each lower one (column)."""
    denoiser, (sigmas, times) = model.exact.denoiser, grid
    generator = stream(model.seed, "align_your_steps/noise")
    y = model.fresh(n, "align_your_steps")
    predictions: list[Points] = []
    before = 0.0
    # One Brownian path for each point, from little noise to much.
    for sigma, t in reversed(list(zip(sigmas, times, strict=True))):
        noise = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        y = y + math.sqrt(sigma**2 - before**2) * noise
        predictions.insert(0, denoiser(model.schedule.levels(t)[0] * y, t)[0])
        before = sigma
    log_step = math.log(sigmas[0] / sigmas[1])
    costs = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
    for i, start in enumerate(predictions):
        squares = torch.stack([(start - end).square().sum(1).mean() for end in predictions[i:]])
        # d sigma / sigma^3 = d log sigma / sigma^2.
        weights = log_step / torch.tensor(sigmas[i:], dtype=torch.float64) ** 2
        costs[i, i:] = (weights * squares).cumsum(0)
    return costs


def gits(model: ModelUnderTest, grid: Grid, n: int) -> Costs:
    """Cost of a step from each noise level (row) to each lower one (column)."""
    denoiser, (sigmas, times) = model.exact.denoiser, grid
    x = torch.randn(n, 2, dtype=torch.float64, generator=stream(model.seed, "gits"))
    ys, predictions = [], []
    for k, t in enumerate(times):
        if k > 0:
            x = integrate(
                denoiser, denoiser.velocity, x, times[k - 1], t, tolerance=1e-5, name="gits"
            )
        ys.append(x / model.schedule.levels(t)[0])
        predictions.append(denoiser(x, t)[0])
    costs = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
    for i, j in torch.triu_indices(len(sigmas), len(sigmas), 1).T.tolist():
        ratio = sigmas[j] / sigmas[i]
        step = predictions[i] + ratio * (ys[i] - predictions[i])
        costs[i, j] = (step - ys[j]).square().sum(1).sqrt().mean()
    return costs


def shortest_path(costs: Costs, steps: int) -> list[int]:
    """Starts of the steps from the first to the last node for which the sum of costs is least."""
    forward = torch.ones_like(costs).triu(1) > 0
    allowed = torch.where(forward, costs, math.inf)
    total, came_from = allowed[0], []
    for _ in range(steps - 1):
        total, indices = (total[:, None] + allowed).min(0)
        came_from.append(indices)
    path = [len(costs) - 1]
    for indices in reversed(came_from):
        path.insert(0, int(indices[path[0]]))
    return [0, *path[:-1]]


def _grid(schedule: Schedule) -> Grid:
    highest = math.exp(-schedule.log_snr_at(schedule.T) / 2)
    powers = [k / (_GRID - 1) for k in range(_GRID)]
    sigmas = [highest * (_LOWEST / highest) ** power for power in powers]
    times = [schedule.time_of_log_snr(-2 * math.log(sigma)) for sigma in sigmas]
    return Grid(sigmas, [float(schedule.T), *times[1:]])
