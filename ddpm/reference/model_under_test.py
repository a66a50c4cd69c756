"""A trained model together with the exact distribution of its training data.

The stages that measure take this as their input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.data.datasets import Dataset
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import q_sample
from ddpm.diffusion.schedule import Schedule
from ddpm.flow.probability_flow import first_time
from ddpm.networks.model_file import TrainedModel, load_model
from ddpm.reference.distribution import ExactDistribution

Points = Float64[Tensor, "n 2"]


@dataclass(frozen=True)
class ModelUnderTest:
    """A model together with the exact distribution of its data, from which it draws fresh points.

    Attributes:
        denoiser: Denoiser of the model.
        exact: Exact distribution of x_t for the training data, under the model's schedule.
        dataset: Distribution of the training data, data units.
        scaling: Map between data and model units.
        seed: Seed of the model, from which the random streams of all fresh points derive.
    """

    denoiser: Denoiser
    exact: ExactDistribution
    dataset: Dataset
    scaling: Scaling
    seed: int

    @classmethod
    def from_model(cls, model: TrainedModel) -> "ModelUnderTest":
        """Build the exact distribution of the training data of a model."""
        schedule = model.denoiser.schedule
        exact = ExactDistribution.from_dataset(model.dataset, model.scaling, schedule)
        return cls(model.denoiser, exact, model.dataset, model.scaling, model.seed)

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of the model."""
        return self.denoiser.schedule

    @property
    def noise(self) -> float:
        """Standard deviation of the data around their curve, data units."""
        return self.dataset.noise

    @property
    def t(self) -> int:
        """Time at which densities are compared: 0, or 1 if model or data have no density at 0."""
        return first_time(self.denoiser, self.noise)

    def fresh(self, n: int, name: str) -> Points:
        """Draw n points from the data distribution, model units, with the random stream `name`."""
        return self.exact.sample(n, 0, generator=stream(self.seed, name))

    def true_sets(
        self, n: int, pairs: int, name: str
    ) -> tuple[Points, list[tuple[Points, Points]]]:
        """Draw a true set and independent pairs of true sets, n points each, data units."""
        first, *others = (
            self.scaling.to_data(self.fresh(n, f"{name}/true/{k}")) for k in range(2 * pairs + 1)
        )
        return first, list(zip(others[::2], others[1::2], strict=True))

    def noised(self, x0: Points, t: int, name: str) -> Points:
        """Add noise by q(x_t | x_0), model units; at t = 0 the points are unchanged."""
        generator = stream(self.seed, f"{name}/noise")
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator)
        return q_sample(self.schedule, x0, t, eps)

    def exact_x0_hat(
        self, times: Sequence[float], x: Float[Tensor, "times n 2"]
    ) -> Float[Tensor, "times n 2"]:
        """Compute E[x_0 | x_t] along trajectories, data units; at t = 0 it is x_t itself."""
        trajectories = zip(times, self.scaling.to_model(x.double()), strict=True)
        means = [self.exact.posterior_mean(x_t, t) if t > 0 else x_t for t, x_t in trajectories]
        return self.scaling.to_data(torch.stack(means)).to(x.dtype)


def load_model_under_test(path: Path) -> ModelUnderTest:
    """Load a model on the CPU and build the exact distribution of its training data.

    Raises:
        UserError: If the file is not a valid model; see `load_model`.
    """
    return ModelUnderTest.from_model(load_model(path))
