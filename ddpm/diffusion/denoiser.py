"""The interface that samplers, likelihood and figures share: estimates of x_0 and eps from x_t.

A trained network implements it, and so does the exact posterior mean. Any sampler can therefore run
on either of them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.diffusion.predictions import PREDICTIONS, Batch, Prediction
from ddpm.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Denoiser:
    """Estimates the clean data from a noisy point. All points are in model units.

    Attributes:
        function: Maps (x_t, t) to a prediction: a network, or the exact solution. t has one entry
            for all points or one for each.
        prediction: What the function predicts.
        schedule: Noise schedule that supplies alpha_bar.
        precision: Type to which points are converted for the function; None keeps their own.
        finite: Whether the function is finite at t = 0. It is not for the exact solution of data
            without noise.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.1).double())
        >>> denoiser = Denoiser(lambda x, t: torch.zeros_like(x), PREDICTIONS["x0"], schedule)
        >>> x0_hat, eps_hat = denoiser(torch.ones(1, 2), 5)
        >>> x0_hat
        tensor([[0., 0.]])
    """

    function: Callable[[Batch, Float[Tensor, " #batch"]], Batch]
    prediction: Prediction
    schedule: Schedule
    precision: torch.dtype | None = None
    finite: bool = True

    @property
    def regular(self) -> bool:
        """Whether the probability flow of this denoiser reaches t = 0."""
        return self.finite and self.prediction.regular

    def double(self) -> "Denoiser":
        """The same denoiser in float64. A network is copied and keeps its own weights."""
        function = self.function
        if isinstance(function, nn.Module):
            function = copy.deepcopy(function).double()
        return replace(self, function=function, precision=torch.float64)

    def predict(self, x_t: Batch, t: float) -> Batch:
        """Evaluate the function at a time in [0, T], and return it in the precision of `x_t`."""
        x = x_t if self.precision is None else x_t.to(self.precision)
        return self.function(x, x.new_tensor([t])).to(x_t.dtype)

    def __call__(self, x_t: Batch, t: float) -> tuple[Batch, Batch]:
        """Estimate the clean data and the noise, (x0_hat, eps_hat), in the precision of `x_t`.

        Args:
            x_t: Noisy points.
            t: Time of all points, in (0, T]; 0 is allowed as well if the denoiser is `regular`.
        """
        return self.prediction.split(self.predict(x_t, t), x_t, *self.schedule.levels(t))

    def velocity(self, x_t: Batch, t: float) -> Batch:
        """Estimate v, which is d x_t / d phi along the probability flow, with sigma = sin(phi)."""
        x0_hat, eps_hat = self(x_t, t)
        return PREDICTIONS["v"].target(x0_hat, eps_hat, *self.schedule.levels(t))
