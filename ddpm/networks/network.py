"""Base classes of networks: settings that build one, reproducible initial weights, `forward`."""

import copy
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from ddpm.core.errors import UserError
from ddpm.core.gradient import LossGradient
from ddpm.core.settings import Settings


class Network(nn.Module, ABC):
    """Predicts eps, x0 or v for points in the plane; the training determines which of them.

    A network for labelled data has an input for the label. Besides the labels 0 ... classes - 1
    there is a null label, `classes`, which stands for all of the data.

    Args:
        classes: Number of labels; 0 if there are none.
    """

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        # Labels of points for which none is passed: one for all, or one for each part of a batch.
        self.labels: tuple[int, ...] = (classes,)

    def given(self, label: int | None) -> "Network":
        """Return the network for one label, with the same weights; None is the null label.

        Raises:
            UserError: If there is no such label.
        """
        if label is not None and not 0 <= label < self.classes:
            allowed = f"0 to {self.classes - 1}" if self.classes else "none: it has no labels"
            raise UserError(f"the network's label is {label} but should be {allowed}")
        network = copy.copy(self)
        network.labels = (self.classes if label is None else label,)
        return network

    def beside(self, other: object) -> "Network | None":
        """Return the network for two labels at once, if another one is this one for another label.

        The first half of a batch gets the label of this one, and the second half that of the other.
        """
        # Both share their weights if they come from `given`.
        if not isinstance(other, Network) or other._modules is not self._modules:
            return None
        network = copy.copy(self)
        network.labels = (*self.labels, *other.labels)
        return network

    @abstractmethod
    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw the initial weights, with which the output is zero."""

    @override
    @abstractmethod
    def forward(
        self,
        x_t: Float[Tensor, "batch 2"],
        t: Float[Tensor, " #batch"],
        label: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch 2"]:
        """Predict at noisy points and times.

        Args:
            x_t: Noisy points, model units.
            t: Time in [0, T], one for all points or one for each.
            label: Label of each point; by default, that of `given`, or else the null label.
        """

    def loss_gradient(self, batch: int) -> LossGradient | None:  # noqa: ARG002
        """Return code of its own for loss and gradient of a batch; None leaves it to autograd.

        The gradients of the weights are used where they lie: training may have joined them.
        """
        return None


class NetworkSettings(Settings, ABC):
    """Settings of a kind of network, which build it."""

    @abstractmethod
    def build(self, T: int, classes: int = 0) -> Network:
        """Build the network for times in [0, T] and a number of labels, without initial weights."""

    def create(self, T: int, classes: int = 0, *, generator: torch.Generator) -> Network:
        """Build the network, and draw its initial weights."""
        network = self.build(T, classes)
        network.initialise(generator=generator)
        return network
