"""Base classes of networks: settings that build one, reproducible initial weights, `forward`."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from ddpm.core.gradient import LossGradient
from ddpm.core.settings import Settings


class Network(nn.Module, ABC):
    """Predicts eps, x0 or v for points in the plane; the training determines which of them."""

    @abstractmethod
    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw the initial weights, with which the output is zero."""

    @override
    @abstractmethod
    def forward(
        self, x_t: Float[Tensor, "batch 2"], t: Float[Tensor, " #batch"]
    ) -> Float[Tensor, "batch 2"]:
        """Predict at noisy points and times.

        Args:
            x_t: Noisy points, model units.
            t: Time in [0, T], one for all points or one for each.
        """

    def loss_gradient(self, batch: int) -> LossGradient | None:  # noqa: ARG002
        """Return code of its own for loss and gradient of a batch; None leaves it to autograd.

        The gradients of the weights are used where they lie: training may have joined them.
        """
        return None


class NetworkSettings(Settings, ABC):
    """Settings of a kind of network, which build it."""

    @abstractmethod
    def build(self, T: int) -> Network:
        """Build the network for times in [0, T], without initial weights."""

    def create(self, T: int, *, generator: torch.Generator) -> Network:
        """Build the network for times in [0, T], and draw its initial weights."""
        network = self.build(T)
        network.initialise(generator=generator)
        return network
