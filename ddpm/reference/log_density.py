"""Mean log density of samples under the exact distribution."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]


class SampleLogDensity(NamedTuple):
    """Log density of samples under the exact distribution.

    Attributes:
        values: Log density of each sample in nats, data units. It is raised to the lowest of any
            true point, if it is below.
        strays: Fraction of the samples whose log density is below that of every true point.
    """

    values: PerPoint
    strays: float

    @property
    def mean(self) -> Mean:
        """Mean log density."""
        return mean_of(self.values)


class LogDensityMeasure:
    """Measures the mean log density of samples under the exact distribution.

    A single sample far from the curve would dominate the mean. Log densities below the lowest of
    any true point are therefore raised to it, and `SampleLogDensity.strays` counts them. The mean
    is not a divergence: samples too close to the curve have a higher mean than true points.

    Args:
        model: Supplies the exact distribution.
        sets: True points, data units; together they should be many.

    Attributes:
        t: Time at which the density is evaluated: 0, or 1 for data without noise.
        truth: Mean log density of the true points.
    """

    def __init__(self, model: ModelUnderTest, *sets: Points) -> None:
        self._model = model
        # Without noise the data have no density at t = 0, so all points are noised to t = 1.
        self.t = 0 if model.noise > 0 else 1
        values = self._log_densities(torch.cat(sets), "true")
        self._lowest = float(values.min())
        self.truth = mean_of(values)

    def __call__(self, points: Points, name: str) -> SampleLogDensity:
        """Measure samples, data units; `name` selects the random stream of their added noise."""
        values = self._log_densities(points, name)
        strays = float((values < self._lowest).double().mean())
        return SampleLogDensity(values.clamp(min=self._lowest), strays)

    def _log_densities(self, points: Points, name: str) -> PerPoint:
        model = self._model
        x_t = model.noised(model.scaling.to_model(points), self.t, f"log_density/{name}")
        return model.exact.log_density(x_t, self.t) + model.scaling.log_jacobian
