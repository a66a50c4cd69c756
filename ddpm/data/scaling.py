"""The map between data units, in which files are written, and standardised model units."""

import math
from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.core.errors import UserError


@dataclass(frozen=True)
class Scaling:
    """Maps data units x to model units z = (x - mean) / scale, and back.

    Both axes have the same scale, so that isotropic noise stays isotropic.

    Attributes:
        mean: Centre of the training points, shape (2,), data units, float64.
        scale: Standard deviation of the training points, the root mean square of both axes; data
            units.

    Example:
        >>> import torch
        >>> points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) + 5
        >>> z = Scaling.from_points(points).to_model(points)
        >>> abs(float(z.mean())) < 1e-5 and abs(float(z.square().mean()) - 1) < 1e-5
        True
    """

    mean: Float64[Tensor, "2"]
    scale: float

    @classmethod
    def from_points(cls, points: Float[Tensor, "n 2"]) -> "Scaling":
        """Compute the scaling that gives the points mean 0 and variance 1 (the mean of both axes).

        Raises:
            UserError: If the points are all the same, or so large that their squares overflow.
        """
        exact = points.double()
        mean = exact.mean(0)
        scale = math.sqrt(float((exact - mean).square().mean()))
        if not (0 < scale < math.inf):
            raise UserError(
                f"the training points have a standard deviation of {scale:g} but it should be"
                " positive and finite; generate other points"
            )
        return cls(mean, scale)

    @property
    def log_jacobian(self) -> float:
        """Log density in data units minus that in model units, log |det dz/dx|."""
        return -len(self.mean) * math.log(self.scale)

    def to_model(self, x: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Convert data units to model units, in the precision of x."""
        return (x - self.mean.to(x)) / self.scale

    def to_data(self, z: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Convert model units to data units, in the precision of z."""
        return self.mean.to(z) + self.scale * z
