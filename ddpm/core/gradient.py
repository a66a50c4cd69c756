"""How networks and exact denoisers may offer code of their own for their derivatives.

Those who implement it and those who call it are in rooms that do not import each other.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class LossGradient(Protocol):
    """Computes the mean squared error of a batch, and its gradient."""

    def inputs(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute what depends on no weight, with the leading axes of x_t and t."""

    def __call__(self, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Compute the loss of one batch, and store its gradient in those of the weights."""


@runtime_checkable
class HasLossGradient(Protocol):
    """A network that may have such code."""

    def loss_gradient(self, batch: int) -> LossGradient | None:
        """Return the code for batches of this size; None leaves it to autograd."""


@runtime_checkable
class HasJacobian(Protocol):
    """A function of (x_t, t) that also computes its derivative with respect to x_t."""

    def with_jacobian(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions, shape (n, d), and their derivatives, shape (n, d, d)."""
