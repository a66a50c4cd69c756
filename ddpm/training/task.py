"""What the network learns: from clean points to the inputs and targets of the loss.

    L = E_{t, x_0, eps} | network(x_t, t) - target(x_0, eps, t) |^2 / 2

t has a density proportional to t^-p on (0, T]; p = 0 is uniform. A batch is stratified: the
distribution of t is divided into as many equally probable parts as the batch has points, and one t
is drawn from each. The loss then has the same mean as with independent t, and less variance.

References:
    Ho et al. 2020, eq. 14 and algorithm 1, https://arxiv.org/abs/2006.11239
    Ho & Salimans 2021 (labels that are dropped), https://arxiv.org/abs/2207.12598
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ddpm.core.params import LossSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import Coefficient, Prediction
from ddpm.diffusion.process import add_noise, coefficients
from ddpm.diffusion.schedule import Schedule
from ddpm.training.neighbours import CleanPoints, NeighbourSets

# Real times are at least this, since at t = 0 no point but x_0 could have led to x_t. With a power
# of 0.65, 0.4 % of the times are raised to it, and 4 % with the largest power that is allowed.
_MIN_TIME = 1e-4
# The validation loss has this many different times, so that an exact denoiser, which computes one
# time after the other, can be evaluated on the same batch.
_VALIDATION_TIMES = 500


class TrainingBatch(NamedTuple):
    """Inputs of the network, and the values that it should predict."""

    x_t: Float[Tensor, "*chunk batch 2"]
    t: Float[Tensor, "*chunk batch"]
    target: Float[Tensor, "*chunk batch 2"]
    label: Int64[Tensor, "*chunk batch"] | None = None

    def to(self, device: torch.device) -> "TrainingBatch":
        """Move the batch to a device."""
        label = None if self.label is None else self.label.to(device)
        return TrainingBatch(self.x_t.to(device), self.t.to(device), self.target.to(device), label)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of the network: x_t and t, and labels if there are any."""
        return (self.x_t, self.t) if self.label is None else (self.x_t, self.t, self.label)


@dataclass(frozen=True)
class Labels:
    """How labels are shown to the network.

    Attributes:
        classes: Number of labels; the null label follows them.
        drop: Probability with which a label is replaced by the null label.
    """

    classes: int
    drop: float


@dataclass(frozen=True)
class Task:
    """What the network learns: a schedule, a prediction type, and the settings of the loss.

    With `labels` the network learns the distribution of each class, and under the null label that
    of all data (Ho and Salimans 2021).

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> loss = LossSettings(neighbours=1, time_power=0, integer_times=True)
        >>> task = Task(schedule, ddpm.PREDICTIONS["v"], loss)
        >>> generator = torch.Generator().manual_seed(0)
        >>> sets = NeighbourSets.of(torch.zeros(50, 2), 1, generator=generator)
        >>> batch = task.batch(sets, (8,), generator=generator)
        >>> [int(time) // 125 for time in batch.t - 1]  # one in each eighth of the range
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    schedule: Schedule
    prediction: Prediction
    loss: LossSettings
    labels: Labels | None = None

    def batch(
        self, sets: NeighbourSets, shape: tuple[int, ...], *, generator: torch.Generator
    ) -> TrainingBatch:
        """Draw clean points and noise, at times that are stratified over each batch.

        Args:
            sets: Training points, model units, in the sets over which the targets are averaged.
            shape: Shape of t; its last entry is the size of a batch.
            generator: Source of the times, the noise, the choice of points, and of the labels that
                are dropped, in this order.
        """
        dtype, device = sets.sets.dtype, sets.sets.device
        strata = torch.rand(shape, generator=generator, device=device)
        t = self.times((strata + torch.arange(shape[-1], device=device)) / shape[-1])
        eps = torch.randn((*shape, 2), generator=generator, dtype=dtype, device=device)
        a, sigma = coefficients(self.schedule, t, like=eps)
        sigma_ve = (torch.as_tensor(sigma) / a)[..., 0]
        clean = sets.draw(sigma_ve, eps, generator=generator)
        if self.labels and clean.label is not None:
            dropped = torch.rand(shape, generator=generator, device=device) < self.labels.drop
            clean = clean._replace(label=clean.label.masked_fill(dropped, self.labels.classes))
        return self._noised(clean, t, eps, a, sigma)

    def validation_batch(
        self,
        points: Float[Tensor, "n 2"],
        *,
        generator: torch.Generator,
        labels: Int64[Tensor, " n"] | None = None,
    ) -> TrainingBatch:
        """Add noise to clean points at times that are spread evenly over their distribution.

        If the points have labels, none is dropped.
        """
        n = len(points)
        count = min(n, _VALIDATION_TIMES)
        strata = ((torch.arange(n) * count // n + 0.5) / count).to(points)
        eps = torch.randn(points.shape, generator=generator, device=points.device)
        # Points may come in any order, so that each gets a random time.
        order = torch.randperm(n, generator=generator, device=points.device)
        x0 = points[order]
        t = self.times(strata)
        a, sigma = coefficients(self.schedule, t, like=eps)
        label = None if labels is None else labels[order]
        return self._noised(CleanPoints(x0, x0, eps, label), t, eps, a, sigma)

    def times(self, strata: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Map values in [0, 1] to times, by the inverse of their cumulative distribution."""
        T, power = self.schedule.T, 1 / (1 - self.loss.time_power)
        t = (T * strata.cpu().double() ** power).to(strata)
        return t.ceil().clamp(1, T) if self.loss.integer_times else t.clamp(_MIN_TIME, T)

    def denoiser(self, network: nn.Module) -> Denoiser:
        """Wrap a network that was trained on this task, to sample from it and to measure it."""
        return Denoiser(network.eval(), self.prediction, self.schedule, torch.float32)

    def _noised(
        self, clean: CleanPoints, t: Tensor, eps: Tensor, a: Coefficient, sigma: Coefficient
    ) -> TrainingBatch:
        target = self.prediction.target(clean.mean_x0, clean.mean_eps, a, sigma)
        return TrainingBatch(add_noise(clean.x0, eps, a, sigma), t.float(), target, clean.label)


def denoising_loss(network: nn.Module, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean squared error of the prediction, over points and coordinates."""
    error: Tensor = network(*batch.inputs) - batch.target
    return error.square().mean()
