"""Guidance: an extrapolation from one denoiser through another.

    D = D_guide + scale (D_main - D_guide)

All predictions are linear in x0_hat, so the formula is the same for eps, x0 and v, and for scores.
The score of D is that of p_main^scale p_guide^(1 - scale) at each noise level. But these are not
the diffused versions of one distribution, so that samplers need not arrive at the one of t = 0. It
is called the tilted distribution here.

    none            D = D_main
    cfg             D_main knows the label, D_guide does not (classifier-free guidance)
    interval        the same between two noise levels; with another scale, usually 1, elsewhere
    autoguidance    D_guide is a worse model of the same label

References:
    Ho & Salimans 2021 (classifier-free guidance), https://arxiv.org/abs/2207.12598
    Kynkaanniemi et al. 2024 (interval), https://arxiv.org/abs/2404.07724
    Karras et al. 2024 (autoguidance), https://arxiv.org/abs/2406.02507
    Bradley & Nakkiran 2024 (not the tilted distribution), https://arxiv.org/abs/2408.09000
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from ddpm.core.errors import UserError
from ddpm.core.settings import Positive, Real, Settings
from ddpm.diffusion.denoiser import Denoiser, piecewise
from ddpm.diffusion.tangents import Jacobians, Points, prediction_with_jacobian

Scale = Annotated[Real, Field(ge=-100, le=100)]


@runtime_checkable
class Labelled(Protocol):
    """A network that can be evaluated for two labels in one batch."""

    def beside(self, other: object) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return it for two labels, one for each half of a batch; None if `other` is not it."""


@dataclass(frozen=True)
class Guided:
    """The prediction of a guided denoiser, as a function with a derivative like a network.

    Where main and guide are one network with two labels, it is evaluated in one doubled batch.

    Attributes:
        main: Denoiser to which the guidance leads.
        guide: Denoiser from which it leads away.
        scale: 1 is `main` alone, 0 is `guide` alone.
    """

    main: Denoiser
    guide: Denoiser
    scale: float

    @property
    def evaluations(self) -> int:
        """Number of denoisers that one call evaluates."""
        return self.main.evaluations + self.guide.evaluations

    def double(self) -> "Guided":
        """Return the same in float64."""
        if self._both is None:
            return replace(self, main=self.main.double(), guide=self.guide.double())
        # Copied together, so that they still are one network.
        networks = copy.deepcopy([self.main.function, self.guide.function])
        main, guide = (
            replace(denoiser, function=cast(nn.Module, network).double(), precision=torch.float64)
            for denoiser, network in zip((self.main, self.guide), networks, strict=True)
        )
        return replace(self, main=main, guide=guide)

    @property
    def _both(self) -> Denoiser | None:
        """Main and guide as one denoiser of a doubled batch, if they are one network."""
        network = self.main.function
        both = network.beside(self.guide.function) if isinstance(network, Labelled) else None
        return replace(self.main, function=both) if both else None

    def __call__(self, x_t: Points, t: Float[Tensor, "1"]) -> Points:
        """Predict at one time for all points."""
        if both := self._both:
            main, guide = both.predict(torch.cat((x_t, x_t)), float(t)).chunk(2)
        else:
            main, guide = (denoiser.predict(x_t, float(t)) for denoiser in (self.main, self.guide))
        return guide + self.scale * (main - guide)

    def with_jacobian(self, x_t: Points, t: Float[Tensor, "1"]) -> tuple[Points, Jacobians]:
        """Predict at one time for all points, and differentiate with respect to them."""
        if both := self._both:
            doubled = _with_jacobian(both, torch.cat((x_t, x_t)), t)
            pairs = [values.chunk(2) for values in doubled]
        else:
            separate = (_with_jacobian(denoiser, x_t, t) for denoiser in (self.main, self.guide))
            pairs = list(zip(*separate, strict=True))
        prediction, jacobian = (guide + self.scale * (main - guide) for main, guide in pairs)
        return prediction, jacobian


def guided(main: Denoiser, guide: Denoiser, scale: float) -> Denoiser:
    """Guide one denoiser by another; every sampler works with the result.

    Args:
        main: Denoiser to which the guidance leads.
        guide: Denoiser from which it leads away, with the same schedule and prediction type.
        scale: 1 is `main` alone, which is returned; 0 is `guide` alone.

    Raises:
        UserError: If the scale is not finite, or schedule or prediction type differ.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> moons, scaling = ddpm.Moons(noise=0.15), ddpm.Scaling(torch.zeros(2).double(), 0.6)
        >>> exact = ddpm.ExactDistribution.from_dataset(moons, scaling, schedule)
        >>> denoiser = guided(exact.given(0).denoiser, exact.denoiser, scale=2)
        >>> times = ddpm.sampling_times("log_snr", schedule, 10)
        >>> samples, evaluations = ddpm.draw_samples(ddpm.UniPC(), denoiser, times, n=100, seed=0)
        >>> samples.shape, evaluations
        (torch.Size([100, 2]), 20)
    """
    if not math.isfinite(scale):
        raise UserError(f"the guidance scale is {scale} but should be finite; pass another one")
    if main.prediction is not guide.prediction:
        raise UserError("main and guide predict different things; pass two of the same kind")
    if not torch.equal(main.schedule.log_alpha_bar, guide.schedule.log_alpha_bar):
        raise UserError("main and guide have different schedules; pass two with the same one")
    if scale == 1:
        return main
    jumps = {piece.lowest for denoiser in (main, guide) for piece in denoiser.pieces}
    if jumps:
        ends = sorted(jumps, reverse=True)
        starts = [float(main.schedule.T), *ends[:-1]]
        return piecewise(
            [
                (end, guided(main.before(start), guide.before(start), scale))
                for start, end in zip(starts, ends, strict=True)
            ]
        )
    finite = main.finite and guide.finite
    return replace(main, function=Guided(main, guide, scale), precision=None, finite=finite)


def guided_between(
    main: Denoiser, guide: Denoiser, scale: float, low: float, high: float, outside: float = 1.0
) -> Denoiser:
    """Guide with one scale between two noise levels, and with another elsewhere.

    The steps of a sampler should end where the scale changes; see `with_jumps`.

    Args:
        main: Denoiser to which the guidance leads.
        guide: Denoiser from which it leads away.
        scale: Scale between the two levels.
        low: The lower level, sigma / sqrt(alpha_bar); 0 for none.
        high: The higher level; infinite for none.
        outside: Scale at other levels.

    Raises:
        UserError: As `guided`, or if the levels are not in order.
    """
    if not low < high:
        raise UserError(f"low is {low:g} but should be below high, {high:g}; pass other levels")
    schedule = main.schedule
    elsewhere = guided(main, guide, outside)
    pieces = [(0.0, elsewhere)]
    for level, denoiser in ((low, guided(main, guide, scale)), (high, elsewhere)):
        t = 0.0 if level <= 0 else schedule.T
        if 0 < level < math.inf:
            t = schedule.time_of_log_snr(-2 * math.log(level))
        # A level that no time reaches leaves no room for the piece below it.
        if t == 0:
            pieces = [(0.0, denoiser)]
        elif t < schedule.T:
            pieces.append((t, denoiser))
    return piecewise(pieces[::-1]) if len(pieces) > 1 else pieces[0][1]


def _with_jacobian(
    denoiser: Denoiser, x_t: Points, t: Float[Tensor, "1"]
) -> tuple[Points, Jacobians]:
    """Prediction of a denoiser and its derivative, in the precision of x_t."""
    x = x_t if denoiser.precision is None else x_t.to(denoiser.precision)
    prediction, jacobian = prediction_with_jacobian(denoiser.function, x, t.to(x.dtype))
    return prediction.to(x_t.dtype), jacobian.to(x_t.dtype)


class Sources(NamedTuple):
    """The denoisers that guidance may combine.

    Attributes:
        conditional: Denoiser of the label.
        null: Denoiser of all data.
        guide: A worse denoiser of the label, for autoguidance.
    """

    conditional: Denoiser
    null: Denoiser
    guide: Denoiser | None = None


class Guidance(Settings, ABC):
    """Settings of a kind of guidance."""

    @abstractmethod
    def apply(self, sources: Sources) -> Denoiser:
        """Build the guided denoiser.

        Raises:
            UserError: If the guide is missing.
        """


class NoGuidance(Guidance):
    """Samples of the label, without guidance."""

    @override
    def apply(self, sources: Sources) -> Denoiser:
        return sources.conditional


class ClassifierFree(Guidance):
    """Classifier-free guidance with one scale at all noise levels."""

    scale: Scale

    @override
    def apply(self, sources: Sources) -> Denoiser:
        return guided(sources.conditional, sources.null, self.scale)


class Interval(ClassifierFree):
    """Classifier-free guidance between two noise levels sigma / sqrt(alpha_bar).

    Elsewhere it has the scale `outside`: with 1 there is no guidance.
    """

    low: Annotated[Real, Field(ge=0)]
    high: Positive
    outside: Scale

    @model_validator(mode="after")
    def _refuse_disorder(self) -> "Interval":
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} but should be below high, {self.high:g}")
        return self

    @override
    def apply(self, sources: Sources) -> Denoiser:
        conditional, null, _ = sources
        return guided_between(conditional, null, self.scale, self.low, self.high, self.outside)


class Autoguidance(Guidance):
    """Guidance by a smaller and less trained model of the same label."""

    scale: Scale

    @override
    def apply(self, sources: Sources) -> Denoiser:
        if sources.guide is None:
            raise UserError(
                "guidance.kind is autoguidance but there is no guide, a worse model of the same"
                " label; train one, or change guidance.kind in params.yaml"
            )
        return guided(sources.conditional, sources.guide, self.scale)


GUIDANCE: dict[str, type[Guidance]] = {
    "none": NoGuidance,
    "cfg": ClassifierFree,
    "interval": Interval,
    "autoguidance": Autoguidance,
}
