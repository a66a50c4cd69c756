"""Score and density of the model and of the truth on a grid, for the figures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
Fields = dict[str, Float64[Tensor, "..."]]


def score_fields(
    model: ModelUnderTest, times: Sequence[float], *, reach: float, grid: int
) -> Fields:
    """Compute sigma_t times the score of model and truth, which is -eps_hat, on a square grid.

    Args:
        model: The model, and the exact distribution.
        times: Times in (0, T].
        reach: The square is [-reach, reach]^2, model units.
        grid: Points along each side.

    Returns:
        The times `score_t` (k,) and noise levels `score_sigma` (k,); the points `score_at`
        (grid^2, 2); at each time and point, `score_truth` and `score_model` (k, grid^2, 2), and the
        exact log density `score_log_density` (k, grid^2).
    """
    points = _square(reach, grid)
    with torch.no_grad():
        truth, network = (
            torch.stack([-denoiser(points, t)[1] for t in times])
            for denoiser in (model.exact.denoiser, model.denoiser)
        )
    return {
        "score_t": torch.tensor(times, dtype=torch.float64),
        "score_sigma": torch.tensor(
            [model.schedule.levels(t)[1] for t in times], dtype=torch.float64
        ),
        "score_at": points,
        "score_truth": truth,
        "score_model": network,
        "score_log_density": torch.stack([model.exact.log_density(points, t) for t in times]),
    }


def density_fields(model: ModelUnderTest, *, reach: float, grid: int, tolerance: float) -> Fields:
    """Compute the log density of model and truth at time `model.t` on a square grid.

    Args:
        model: The model, and the exact distribution.
        reach: The square is [-reach, reach]^2, data units.
        grid: Points along each side.
        tolerance: Tolerance of the solver of the probability flow.

    Returns:
        `density_truth` and `density_model` (grid, grid), in nats with respect to data units. Rows
        are y, columns are x.
    """
    points = model.scaling.to_model(_square(reach, grid))
    shift = model.scaling.log_jacobian
    truth = model.exact.log_density(points, model.t)
    network = log_likelihood(model.denoiser, points, model.t, tolerance=tolerance)
    return {
        "density_truth": (truth + shift).reshape(grid, grid),
        "density_model": (network + shift).reshape(grid, grid),
    }


def _square(reach: float, grid: int) -> Points:
    side = torch.linspace(-reach, reach, grid, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), dim=1)
