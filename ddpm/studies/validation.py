"""The validation loss of training, and the least loss that is possible on the same noisy points.

Most of a denoising loss cannot be learned. On the same x_t and targets, the exact denoiser shows
how much. The squared distance between the two predictions is known far better than the difference
of their losses.
"""

import torch

from ddpm.core.compute import in_parallel
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.process import coefficients
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.training.task import TrainingBatch

# Points that one thread takes at once.
_BLOCK = 1000


@torch.no_grad()
def measure_validation(model: ModelUnderTest, batch: TrainingBatch) -> dict[str, Mean]:
    """Compute the losses of model and exact denoiser on a batch, in units of the prediction.

    Args:
        model: The model, and the exact distribution.
        batch: The batch of the validation loss, model units.

    Returns:
        `loss`, `optimal`, and `excess`, the mean squared distance between the two predictions.
    """
    kind = model.denoiser.prediction
    x_t, t = batch.x_t.double(), batch.t.double()
    blocks = zip(x_t.split(_BLOCK), t.split(_BLOCK), strict=True)
    v = torch.cat(in_parallel(lambda block: model.exact.velocity(*block), blocks))
    a, sigma = coefficients(model.schedule, t, like=x_t)
    best = kind.target(*PREDICTIONS["v"].split(v, x_t, a, sigma), a, sigma)
    prediction = model.denoiser.function(batch.x_t, batch.t).double()
    pairs = {
        "loss": (prediction, batch.target),
        "optimal": (best, batch.target),
        "excess": (prediction, best),
    }
    return {
        name: mean_of((first - second).square().mean(1)) for name, (first, second) in pairs.items()
    }
