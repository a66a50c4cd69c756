"""What a network predicts: eps, x0 or v. Each of them, with x_t, gives the other two.

    x_t = sqrt(alpha_bar_t) x_0 + sigma_t eps
    v_t = sqrt(alpha_bar_t) eps - sigma_t x_0

To add a prediction type, enter its target and its split in PREDICTIONS at the end.

References:
    Ho et al. 2020 (eps), https://arxiv.org/abs/2006.11239
    Salimans & Ho 2022 (v), https://arxiv.org/abs/2202.00512
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

# Points of any shape, and factors that are the same for all of them or broadcast.
Batch = Float[Tensor, "*shape"]
Coefficient = float | Float[Tensor, "*broadcast"]


@dataclass(frozen=True)
class Prediction:
    """A prediction type: the target of training, and how x0 and eps follow from a prediction.

    Attributes:
        target: Maps (x0, eps, sqrt_alpha_bar, sigma) to the value that the network should predict.
        split: Maps (prediction, x_t, sqrt_alpha_bar, sigma) to (x0_hat, eps_hat).
        regular: Whether x0_hat and eps_hat are finite at t = 0, where sigma is 0.

    Example:
        >>> kind, a, sigma = PREDICTIONS["v"], 0.8, 0.6
        >>> kind.target(1.0, 0.0, a, sigma), kind.target(0.0, 1.0, a, sigma)
        (-0.6, 0.8)
    """

    target: Callable[[Batch, Batch, Coefficient, Coefficient], Batch]
    split: Callable[[Batch, Batch, Coefficient, Coefficient], tuple[Batch, Batch]]
    regular: bool


# `a` is sqrt(alpha_bar). A leading underscore marks an argument that this type does not need.
PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction(
        target=lambda _x0, eps, _a, _sigma: eps,
        split=lambda eps_hat, x_t, a, sigma: ((x_t - sigma * eps_hat) / a, eps_hat),
        regular=True,
    ),
    "x0": Prediction(
        target=lambda x0, _eps, _a, _sigma: x0,
        split=lambda x0_hat, x_t, a, sigma: (x0_hat, (x_t - a * x0_hat) / sigma),
        regular=False,
    ),
    "v": Prediction(
        target=lambda x0, eps, a, sigma: a * eps - sigma * x0,
        split=lambda v_hat, x_t, a, sigma: (a * x_t - sigma * v_hat, sigma * x_t + a * v_hat),
        regular=True,
    ),
}
