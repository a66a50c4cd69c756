"""The exact distribution of x_t: density, score and posterior mean at every noise level.

The data are a mixture of Gaussians: x_0 = c + noise e, with e ~ N(0, I) and the centre c on a
curve, in a box or in a list of points. Then p_t is a mixture as well, and each quantity takes one
integral over the centres (see `ddpm.reference.centres`):

    p_t(x)       = E_c N(x; a c, V I),  a = sqrt(alpha_bar_t),  V = a^2 noise^2 + sigma_t^2
    score        = grad log p_t(x) = (a E[c | x] - x) / V
    E[x_0 | x]   = (sigma_t^2 E[c | x] + a noise^2 x) / V
    v            = a E[eps | x] - sigma_t E[x_0 | x],  E[eps | x] = -sigma_t score

No result is divided by a or by sigma_t, so both ends of the process are as exact as its middle.
Everything is float64, in model units. For labelled data the distribution is a mixture of those of
the classes y, and by Bayes p(y | x_t) = p(y) p_t(x_t | y) / p_t(x_t).

Quadrature: Gauss-Legendre with 16 nodes on panels of equal length in the parameter u. A panel is at
most 8/3 standard deviations sqrt(V) long on the curve, and at most an eighth of the range of u. On
the spiral, with sqrt(V) of 0.001 or more, p_t is then exact to 1e-9 (relative) within ten standard
deviations of the curve, as the tests verify. Further out, the nearest nodes still give log p_t to a
few parts in a thousand. A curve with several turns in one panel would need more nodes.

References:
    Robbins 1956, Efron 2011 (Tweedie's formula), https://doi.org/10.1198/jasa.2011.tm11181
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.core.compute import in_parallel
from ddpm.core.errors import UserError
from ddpm.data.boxes import Box
from ddpm.data.curves import Curve
from ddpm.data.datasets import Dataset, Part
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.centres import BoxCentres, Centres, NodeCentres

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]

# Points in one task of a thread.
_POINTS_PER_TASK = 1000


@dataclass(frozen=True)
class ExactDistribution:
    """The distribution of x_t for data whose distribution is known.

    Attributes:
        centres: Distribution of the centres c, model units.
        noise: Standard deviation of the noise around the centres, model units; 0 is allowed.
        schedule: Noise schedule that supplies alpha_bar.
        classes: For labelled data, weight and distribution of each class, in the order of labels.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> spiral, scaling = ddpm.Spiral(noise=0.02), ddpm.Scaling(torch.zeros(2).double(), 0.6)
        >>> exact = ExactDistribution.from_dataset(spiral, scaling, schedule)
        >>> x_t = exact.sample(100, 300, generator=torch.Generator().manual_seed(0))
        >>> log_density, score = exact.log_density(x_t, 300), exact.score(x_t, 300)
        >>> a, sigma = schedule.levels(300)
        >>> tweedie = (x_t + sigma**2 * score) / a
        >>> bool(torch.allclose(tweedie, exact.posterior_mean(x_t, 300)))
        True
    """

    centres: Centres
    noise: float
    schedule: Schedule
    classes: tuple[tuple[float, "ExactDistribution"], ...] = ()

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, scaling: Scaling, schedule: Schedule
    ) -> "ExactDistribution":
        """Exact distribution of a data set, in the model units of `scaling`."""

        def of(parts: Sequence[Part], weight: float) -> ExactDistribution:
            shapes = [(part.weight / weight, part.shape) for part in parts]
            centres = _centres(shapes, scaling)
            return cls(centres, dataset.noise / scaling.scale, schedule)

        classes = []
        for label in range(len(dataset.classes)):
            parts = [part for part in dataset.parts if part.label == label]
            weight = sum(part.weight for part in parts)
            classes.append((weight, of(parts, weight)))
        return replace(of(dataset.parts, 1.0), classes=tuple(classes))

    @classmethod
    def from_curves(
        cls,
        curves: Sequence[tuple[float, Curve]],
        noise: float,
        scaling: Scaling,
        schedule: Schedule,
    ) -> "ExactDistribution":
        """Exact distribution of points on curves, u uniform on each, with noise around them.

        Args:
            curves: Pairs of a weight and a curve; the weights sum to 1.
            noise: Standard deviation of the noise around the curves, data units.
            scaling: Map to model units.
            schedule: Noise schedule that supplies alpha_bar.
        """
        return cls(NodeCentres.on_curves(curves, scaling), noise / scaling.scale, schedule)

    @classmethod
    def from_points(cls, points: Float[Tensor, "n 2"], schedule: Schedule) -> "ExactDistribution":
        """Exact distribution of points drawn uniformly from a list: that of memorised data.

        Args:
            points: The list, model units.
            schedule: Noise schedule that supplies alpha_bar.
        """
        return cls(NodeCentres.in_list(points.double()), 0.0, schedule)

    def given(self, label: int) -> "ExactDistribution":
        """Return the distribution of x_t given the label, p_t(x | c).

        Raises:
            UserError: If there is no such label.
        """
        if not 0 <= label < len(self.classes):
            allowed = (
                f"0 to {len(self.classes) - 1}" if self.classes else "none: there are no labels"
            )
            raise UserError(f"the label is {label} but should be {allowed}; pass another one")
        return self.classes[label][1]

    def label_probabilities(self, x_t: Points, t: float) -> Float64[Tensor, "n classes"]:
        """Evaluate p(c | x_t) for each label c; see `log_density`.

        Raises:
            UserError: If the data have no labels.
        """
        if not self.classes:
            raise UserError("the data have no labels; choose a data set that has")
        logs = [math.log(weight) + given.log_density(x_t, t) for weight, given in self.classes]
        return torch.softmax(torch.stack(logs, dim=1), dim=1)

    def sample(self, n: int, t: float, *, generator: torch.Generator) -> Points:
        """Draw n points from p_t: x_t = a (c + noise e) + sigma_t eps, model units."""
        a, sigma = self.schedule.levels(t)
        centres = self.centres.draw(n, generator)
        e, eps = torch.randn(2, n, 2, dtype=torch.float64, generator=generator)
        x_t: Tensor = a * (centres + self.noise * e) + sigma * eps
        return x_t

    def log_density(self, x_t: Points, t: float) -> PerPoint:
        """Evaluate log p_t(x_t) in nats, with respect to model units.

        Args:
            x_t: Points, model units.
            t: Time in [0, T]; above 0 for data without noise, because their p_0 is singular.
        """
        blocks = in_parallel(lambda x: self._means(x, t)[0], x_t.split(_POINTS_PER_TASK))
        return torch.cat(blocks)

    def score(self, x_t: Points, t: float) -> Points:
        """Evaluate the gradient of log p_t at x_t; see `log_density`."""
        a, sigma = self.schedule.levels(t)
        return (a * self._means(x_t, t)[1] - x_t) / self._variance(a, sigma)

    def posterior_mean(self, x_t: Points, t: float) -> Points:
        """Evaluate E[x_0 | x_t], model units: the denoiser with the least squared error."""
        a, sigma = self.schedule.levels(t)
        mean_centre = self._means(x_t, t)[1]
        return (sigma**2 * mean_centre + a * self.noise**2 * x_t) / self._variance(a, sigma)

    def velocity(self, x_t: Points, t: Float64[Tensor, " #n"]) -> Points:
        """Evaluate E[v | x_t] at one time for all points or one for each, as a network does."""
        if len(t) > 1:
            v = torch.empty_like(x_t)
            for time in t.unique():
                v[t == time] = self.velocity(x_t[t == time], time[None])
            return v
        return self._velocity(x_t, float(t), self._means(x_t, float(t))[1])

    def velocity_with_jacobian(
        self, x_t: Points, t: float
    ) -> tuple[Points, Float64[Tensor, "n 2 2"]]:
        """Evaluate E[v | x_t] and its derivative with respect to x_t, a symmetric matrix.

        It follows from d E[c | x] / d x = (a / V) Cov(c | x).
        """
        _, means = self._means(x_t, t, squares=True)
        mean, mean_square = means[:, :2], means[:, 2:].unflatten(1, (2, 2))
        a, sigma = self.schedule.levels(t)
        variance = self._variance(a, sigma)
        covariance = mean_square - _outer(mean)
        identity = torch.eye(2, dtype=torch.float64)
        jacobian = a * ((1 - self.noise**2) * identity - covariance / variance)
        return self._velocity(x_t, t, mean), sigma / variance * jacobian

    @property
    def denoiser(self) -> Denoiser:
        """The Bayes-optimal denoiser, to use in place of a network."""
        return Denoiser(
            _Velocity(self),
            PREDICTIONS["v"],
            self.schedule,
            precision=torch.float64,
            finite=self.noise > 0,
        )

    def _velocity(self, x_t: Points, t: float, mean_centre: Points) -> Points:
        a, sigma = self.schedule.levels(t)
        # a E[eps | x] - sigma E[x_0 | x], simplified so that no digits cancel.
        return sigma * (a * (1 - self.noise**2) * x_t - mean_centre) / self._variance(a, sigma)

    def _variance(self, a: float, sigma: float) -> float:
        """Variance V of the Gaussian around each scaled centre a c."""
        return (a * self.noise) ** 2 + sigma**2

    def _means(
        self, x_t: Points, t: float, *, squares: bool = False
    ) -> tuple[PerPoint, Float64[Tensor, "n _"]]:
        """Evaluate log p_t(x_t), and the means of c and, if asked for, of c c' given x_t."""
        a, sigma = self.schedule.levels(t)
        return self.centres.means(x_t, a, self._variance(a, sigma), squares=squares)


def _centres(shapes: Sequence[tuple[float, Curve | Box]], scaling: Scaling) -> Centres:
    """Centres on shapes that are all curves, or all boxes."""
    curves = [(weight, shape) for weight, shape in shapes if isinstance(shape, Curve)]
    boxes = [(weight, shape) for weight, shape in shapes if isinstance(shape, Box)]
    if curves and boxes:
        raise ValueError("a data set has curves and boxes; it should have one kind of parts")
    return NodeCentres.on_curves(curves, scaling) if curves else BoxCentres(boxes, scaling)


@dataclass(frozen=True)
class _Velocity:
    """E[v | x_t] as a function with a derivative, in the way of a network."""

    exact: ExactDistribution

    def __call__(self, x_t: Points, t: Float64[Tensor, " #n"]) -> Points:
        return self.exact.velocity(x_t, t)

    def with_jacobian(
        self, x_t: Points, t: Float64[Tensor, "1"]
    ) -> tuple[Points, Float64[Tensor, "n 2 2"]]:
        return self.exact.velocity_with_jacobian(x_t, float(t))


def _outer(x: Points) -> Float64[Tensor, "n 2 2"]:
    return x[:, :, None] * x[:, None, :]
