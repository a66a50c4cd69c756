"""The interface of samplers: settings, and one reverse step from x_t to x_s with s < t.

The loop in `ddpm.sampling.loop` runs the steps. A sampler works with any `Denoiser`: that of a
network, or the exact one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from ddpm.core.settings import Settings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import Batch
from ddpm.diffusion.schedule import Schedule


class SamplerState(NamedTuple):
    """The points at one time, and the estimates of x_0 that the step from there uses.

    Attributes:
        t: Time.
        x_t: Points, after any correction, model units.
        x0_hat: Estimates of x_0.
    """

    t: float
    x_t: Batch
    x0_hat: Batch


@dataclass(frozen=True)
class ReverseStep:
    """Everything that a sampler needs for the step from time t to time s.

    Attributes:
        denoiser: Estimates x_0 from x_t.
        x_t: Current points, model units.
        t: Current time, in (0, T].
        s: Next time, in [0, t).
        history: Earlier states that the sampler may use, the latest last.
        generator: Source of the noise.
    """

    denoiser: Denoiser
    x_t: Batch
    t: float
    s: float
    history: Sequence[SamplerState]
    generator: torch.Generator

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of the denoiser."""
        return self.denoiser.schedule

    def noise(self) -> Batch:
        """Draw standard normal noise with the shape, device and precision of x_t."""
        return normal_like(self.x_t, self.generator)


class Sampler(Settings, ABC):
    """A method of sampling: its settings are fields, and `step` is one reverse step.

    Attributes:
        uses_log_snr: Whether it works in log SNR, which must then be finite at T.
        adaptive: Whether it chooses its own steps between the given times.
        earlier_states: Largest number of earlier states that a step uses.
    """

    uses_log_snr: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    earlier_states: ClassVar[int] = 0

    @property
    def deterministic(self) -> bool:
        """Whether x_T alone determines the result."""
        return True

    def steps_within(self, evaluations: int) -> int:
        """Largest number of steps that costs at most this many denoiser evaluations."""
        return evaluations

    def prepared(
        self,
        denoiser: Denoiser,  # noqa: ARG002 - the arguments are for subclasses
        times: Sequence[float],  # noqa: ARG002
        clean: Batch,  # noqa: ARG002
        *,
        seed: int,  # noqa: ARG002
    ) -> "Sampler":
        """Return a sampler that has measured what it needs to know about a denoiser.

        The default needs nothing and returns itself.

        Args:
            denoiser: Denoiser that the sampler will use.
            times: Times at which it will use the denoiser.
            clean: Clean points to measure on, model units.
            seed: Seed of the noise added to them.
        """
        return self

    @abstractmethod
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        """Go from time t to time s.

        Returns:
            x_s, and the state at t for the history.
        """


def normal_like(x: Batch, generator: torch.Generator) -> Batch:
    """Draw standard normal noise with the shape, device and precision of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
