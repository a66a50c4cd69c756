"""A trained model beside the exact truth of its data: what the measuring stages have in hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.datasets import SPIRAL, Scaling
from ddpm.flow import first_time
from ddpm.metrics import Mean, mean_of
from ddpm.model_file import load_denoiser
from ddpm.params import Params
from ddpm.process import Denoiser, q_sample
from ddpm.runtime import stream
from ddpm.truth import Truth

Points = Float64[Tensor, "n 2"]


@dataclass(frozen=True)
class Subject:
    """The model, the truth, and fresh true points.

    Attributes:
        denoiser: The model's.
        truth: Of the data that the model was trained on, on the model's schedule.
        scaling: Between data and model units.
        noise: Of the data around their curve, data units.
        seed: Of all fresh points.
    """

    denoiser: Denoiser
    truth: Truth
    scaling: Scaling
    noise: float
    seed: int

    @property
    def t(self) -> int:
        """Where densities are compared: 0, or 1 if there is none at 0; see `flow.first_time`."""
        return first_time(self.denoiser, self.noise)

    def fresh(self, n: int, name: str) -> Points:
        """Draw n true points that nobody has seen, model units, from the random stream `name`."""
        return self.truth.sample(n, 0, generator=stream(self.seed, name))

    def true_sets(
        self, n: int, pairs: int, name: str
    ) -> tuple[Points, list[tuple[Points, Points]]]:
        """A true set, and so many independent pairs of true sets, of n points each, data units."""
        one, *others = (
            self.scaling.to_data(self.fresh(n, f"{name}/true/{k}")) for k in range(2 * pairs + 1)
        )
        return one, list(zip(others[::2], others[1::2], strict=True))

    def noised(self, x0: Points, t: int, name: str) -> Points:
        """The points noised by q(x_t | x_0), model units; themselves at t = 0."""
        generator = stream(self.seed, f"{name}/noise")
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=generator)
        return q_sample(self.denoiser.schedule, x0, t, eps)

    def best_along(
        self, times: Sequence[float], x: Float[Tensor, "times n 2"]
    ) -> Float[Tensor, "times n 2"]:
        """E[x_0 | x_t] at every moment of trajectories, data units; at t = 0 it is the point."""
        moments = zip(times, self.scaling.to_model(x.double()), strict=True)
        best = [self.truth.posterior_mean(x_t, t) if t > 0 else x_t for t, x_t in moments]
        return self.scaling.to_data(torch.stack(best)).to(x.dtype)


class Typical(NamedTuple):
    """How likely samples are under the truth.

    Attributes:
        mean: Mean log density, nats, data units, none below the least of the true points.
        strays: Part of the samples that lie below it.
    """

    mean: Mean
    strays: float


class LogDensity:
    """Mean log density of samples under the truth, beside the truth's own.

    One sample far away would outweigh all others: each counts no less than the least likely of the
    true points, and how many lie below it is told apart. It is no divergence: samples that are too
    near to the curve are more likely than true ones.

    Args:
        subject: The truth.
        sets: Many true points, data units.
    """

    def __init__(self, subject: Subject, *sets: Points) -> None:
        self._subject = subject
        # Without noise the truth has no density at 0: all points are then noised to 1.
        self.t = 0 if subject.noise > 0 else 1
        values = self._values(torch.cat(sets), "true")
        self._least = float(values.min())
        self.truth = mean_of(values)

    def __call__(self, points: Points, name: str) -> Typical:
        """Of samples in data units; `name` names the stream of their noise."""
        values = self._values(points, name)
        strays = float((values < self._least).double().mean())
        return Typical(mean_of(values.clamp(min=self._least)), strays)

    def _values(self, points: Points, name: str) -> Float64[Tensor, " n"]:
        subject = self._subject
        x_t = subject.noised(subject.scaling.to_model(points), self.t, f"log_density/{name}")
        return subject.truth.log_density(x_t, self.t) + subject.scaling.log_jacobian


def load_subject(path: Path, params: Params, data: Path) -> Subject:
    """Load a model, on the CPU, and the truth that it is measured against.

    Args:
        path: The model's file.
        params: The present parameters.
        data: The present file of training points.

    Raises:
        UserError: If the model cannot be used; see `load_denoiser`.
    """
    denoiser, scaling = load_denoiser(path, params, data, torch.device("cpu"))
    noise = params.data.noise
    truth = Truth.of_curves([(1.0, SPIRAL)], noise, scaling, denoiser.schedule)
    return Subject(denoiser, truth, scaling, noise, params.seed)
