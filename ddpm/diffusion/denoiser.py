"""The interface that samplers, likelihood and figures share: estimates of x_0 and eps from x_t.

A trained network implements it, and so does the exact posterior mean. Any sampler can therefore run
on either of them.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.diffusion.predictions import PREDICTIONS, Batch, Prediction
from ddpm.diffusion.schedule import Schedule


@runtime_checkable
class Composed(Protocol):
    """A function that consists of other denoisers."""

    @property
    def evaluations(self) -> int:
        """Number of denoisers that one call evaluates."""

    def double(self) -> "Composed":
        """The same in float64."""


class Piece(NamedTuple):
    """A denoiser that is used from some time down to another.

    Attributes:
        lowest: The time at which the next piece takes over; 0 for the last.
        denoiser: The denoiser.
    """

    lowest: float
    denoiser: "Denoiser"


class Segment(NamedTuple):
    """A span of time, in either direction, with one denoiser."""

    start: float
    end: float
    denoiser: "Denoiser"


@dataclass(frozen=True)
class Denoiser:
    """Estimates the clean data from a noisy point. All points are in model units.

    Attributes:
        function: Maps (x_t, t) to a prediction: a network, or the exact solution. t has one entry
            for all points or one for each; what combines denoisers takes one for all.
        prediction: What the function predicts.
        schedule: Noise schedule that supplies alpha_bar.
        precision: Type to which points are converted for the function; None keeps their own.
        finite: Whether the function is finite at t = 0. It is not for the exact solution of data
            without noise.
        pieces: From late to early times, if the function jumps at some times; see `piecewise`.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.1).double())
        >>> denoiser = Denoiser(lambda x, t: torch.zeros_like(x), PREDICTIONS["x0"], schedule)
        >>> x0_hat, eps_hat = denoiser(torch.ones(1, 2), 5)
        >>> x0_hat
        tensor([[0., 0.]])
    """

    function: Callable[[Batch, Float[Tensor, " #batch"]], Batch]
    prediction: Prediction
    schedule: Schedule
    precision: torch.dtype | None = None
    finite: bool = True
    pieces: tuple[Piece, ...] = ()

    @property
    def regular(self) -> bool:
        """Whether the probability flow of this denoiser reaches t = 0."""
        return self.finite and self.prediction.regular

    def double(self) -> "Denoiser":
        """The same denoiser in float64. A network is copied and keeps its own weights."""
        function = self.function
        if isinstance(function, nn.Module):
            function = copy.deepcopy(function).double()
        elif isinstance(function, Composed):
            function = function.double()
        elif self.pieces:
            return piecewise([(lowest, denoiser.double()) for lowest, denoiser in self.pieces])
        return replace(self, function=function, precision=torch.float64)

    @property
    def evaluations(self) -> int:
        """Evaluations that one call costs: one, or more if it combines several denoisers."""
        return self.function.evaluations if isinstance(self.function, Composed) else 1

    def before(self, t: float) -> "Denoiser":
        """Return the denoiser for a step from t towards the data: of pieces, the one before t."""
        return next((piece.denoiser for piece in self.pieces if piece.lowest < t), self)

    def segments(self, start: float, end: float) -> list[Segment]:
        """Divide a span of time, in either direction, at the jumps."""
        inside = [piece.lowest for piece in self.pieces if piece.lowest]
        inside = [t for t in inside if min(start, end) < t < max(start, end)]
        ends = [start, *sorted(inside, reverse=start > end), end]
        return [Segment(a, b, self.before(max(a, b))) for a, b in itertools.pairwise(ends)]

    def predict(self, x_t: Batch, t: float) -> Batch:
        """Evaluate the function at a time in [0, T], and return it in the precision of `x_t`."""
        x = x_t if self.precision is None else x_t.to(self.precision)
        return self.function(x, x.new_tensor([t])).to(x_t.dtype)

    def __call__(self, x_t: Batch, t: float) -> tuple[Batch, Batch]:
        """Estimate the clean data and the noise, (x0_hat, eps_hat), in the precision of `x_t`.

        Args:
            x_t: Noisy points.
            t: Time of all points, in (0, T]; 0 is allowed as well if the denoiser is `regular`.
        """
        return self.prediction.split(self.predict(x_t, t), x_t, *self.schedule.levels(t))

    def velocity(self, x_t: Batch, t: float) -> Batch:
        """Estimate v, which is d x_t / d phi along the probability flow, with sigma = sin(phi)."""
        x0_hat, eps_hat = self(x_t, t)
        return PREDICTIONS["v"].target(x0_hat, eps_hat, *self.schedule.levels(t))


def piecewise(pieces: Sequence[tuple[float, Denoiser]]) -> Denoiser:
    """Use different denoisers at different times.

    Samplers and flow take each step with the denoiser at its start, so that a step should end where
    a piece does: see `with_jumps`.

    Args:
        pieces: The time down to which each is used, and the denoiser, from late to early times; the
            last time is 0. All have the same schedule and prediction type.
    """
    named = tuple(Piece(*piece) for piece in pieces)

    def function(x_t: Batch, t: Float[Tensor, "1"]) -> Batch:
        chosen = next((piece for piece in named if piece.lowest < float(t)), named[-1])
        return chosen.denoiser.predict(x_t, float(t))

    finite = all(piece.denoiser.finite for piece in named)
    return replace(
        named[0].denoiser, function=function, precision=None, finite=finite, pieces=named
    )


def with_jumps(times: Sequence[float], denoiser: Denoiser) -> list[float]:
    """Add the times at which a denoiser jumps to the decreasing times of a sampler."""
    jumps = {piece.lowest for piece in denoiser.pieces if 0 < piece.lowest < times[0]}
    return sorted({*times, *jumps}, reverse=True)
