"""Reverse steps, the moments they visit, and the one loop that runs them.

A sampler is a class with its settings as fields and one method, `step`, from x_t to x_s with s < t;
its values stand in params.yaml under `samplers`, its name in SAMPLERS at the foot. The loop takes
any `Denoiser`: the network's or the exact truth's.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from ddpm.params import Params, Real, Settings, choose, section, settings
from ddpm.process import Batch, Denoiser, posterior
from ddpm.runtime import in_parallel, stream

# Called at every moment with t, x_t and x0_hat, noisiest first; at t = 0 both points are x_0.
Observer = Callable[[float, Batch, Batch], None]


class Sampler(Settings, ABC):
    """A way back from noise to data: its settings as fields, and one reverse move."""

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Batch, t: float, s: float, *, generator: torch.Generator
    ) -> tuple[Batch, Batch]:
        """Go from time t to s, 0 <= s < t <= T; returns x_s and the x0_hat it is based on."""


class DDPM(Sampler):
    """Ancestral sampling: x_s from q(x_s | x_t, x_0) with x0_hat in place of x_0.

    Attributes:
        variance: `posterior` is the variance of q(x_s | x_t, x_0), right when x_0 is known; `beta`
            is that of q(x_t | x_s), right when the data are standard normal. The last step, to
            s = 0, adds no noise with either.

    References:
        Ho et al. 2020, algorithm 2 and section 3.2, https://arxiv.org/abs/2006.11239
    """

    variance: Literal["posterior", "beta"]

    def step(
        self, denoiser: Denoiser, x_t: Batch, t: float, s: float, *, generator: torch.Generator
    ) -> tuple[Batch, Batch]:
        """See `Sampler`."""
        x0_hat, _ = denoiser(x_t, t)
        q = posterior(denoiser.schedule, t, s)
        x_s = q.x0 * x0_hat + q.x_t * x_t
        if s > 0:
            variance = q.variance if self.variance == "posterior" else q.beta
            x_s = x_s + math.sqrt(variance) * _normal_like(x_t, generator)
        return x_s, x0_hat


class DDIM(Sampler):
    """x_s = sqrt(alpha_bar_s) x0_hat + sqrt(sigma_s^2 - noise^2) eps_hat + noise e.

    Attributes:
        eta: noise = eta sqrt(posterior variance). 0 is deterministic; 1 is DDPM with the posterior
            variance.

    References:
        Song et al. 2021, eq. 12 and 16, https://arxiv.org/abs/2010.02502
    """

    eta: Annotated[Real, Field(ge=0, le=1)]

    def step(
        self, denoiser: Denoiser, x_t: Batch, t: float, s: float, *, generator: torch.Generator
    ) -> tuple[Batch, Batch]:
        """See `Sampler`."""
        x0_hat, eps_hat = denoiser(x_t, t)
        schedule = denoiser.schedule
        variance = self.eta**2 * posterior(schedule, t, s).variance
        a, sigma = schedule.levels(s)
        x_s = a * x0_hat + math.sqrt(max(0.0, sigma**2 - variance)) * eps_hat
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * _normal_like(x_t, generator)
        return x_s, x0_hat


def _normal_like(x: Batch, generator: torch.Generator) -> Batch:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _trailing(T: int, steps: int) -> list[float]:
    """Equal strides counted down from T (Lin et al. 2023, https://arxiv.org/abs/2305.08891)."""
    return [T * k / steps for k in range(1, steps + 1)]


def _leading(T: int, steps: int) -> list[float]:
    """Equal whole strides counted up from 1: the first moment may lie far below T."""
    return [1.0 + (T // steps) * k for k in range(steps)]


def _linspace(T: int, steps: int) -> list[float]:
    """Equally spaced from 1 to T, both included."""
    return [T - (T - 1) * k / max(1, steps - 1) for k in reversed(range(steps))]


def _quadratic(T: int, steps: int) -> list[float]:
    """Equally spaced in sqrt(t), up to T: more steps near the data (Song et al. 2021, D.2)."""
    return [T * (k / steps) ** 2 for k in range(1, steps + 1)]


def moments(spacing: str, T: int, steps: int) -> list[int]:
    """Times at which the denoiser is asked.

    Args:
        spacing: Name in SPACINGS.
        T: Steps of the schedule.
        steps: How many of them to take, 1 ... T.

    Returns:
        Distinct whole times in T ... 1, falling.

    Raises:
        UserError: If the spacing is unknown.
        ValueError: If steps is not in 1 ... T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps is {steps} but should be in 1 ... {T}")
    times: list[int] = []
    for k, t in enumerate(choose("sample.spacing", spacing, SPACINGS)(T, steps)):
        # Distinct whole numbers: above the one before, with room for those to come.
        above = times[-1] + 1 if times else 1
        times.append(min(max(math.floor(t + 0.5), above), T - (steps - 1 - k)))
    return times[::-1]


def reverse(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Batch,
    times: Sequence[int],
    *,
    generator: torch.Generator,
    observe: Observer | None = None,
) -> Batch:
    """Run the reverse process from noise to data: the one loop of all samplers.

    Args:
        sampler: Makes each move.
        denoiser: What is known of the clean data.
        x_T: Where to start, model units.
        times: Where the denoiser is asked, falling; the last move goes from times[-1] to 0.
        generator: Source of the noise.
        observe: Is shown every moment.

    Returns:
        Points at t = 0, model units.
    """
    x = x_T
    for t, s in itertools.pairwise((*times, 0)):
        x_s, x0_hat = sampler.step(denoiser, x, t, s, generator=generator)
        if observe is not None:
            observe(t, x, x0_hat)
        x = x_s
    if observe is not None:
        observe(0, x, x)
    return x


class Trajectories:
    """The moments of a few points, kept while they are sampled.

    Args:
        times: All moments, falling, without 0.
        frames: How many to keep at most, the first and t = 0 among them; denser towards the data,
            where most happens.
        points: How many points to keep.
    """

    def __init__(self, times: Sequence[int], frames: int, points: int) -> None:
        every = (*times, 0)
        before_end = {round(len(times) * (k / (frames - 1)) ** 2) for k in range(frames)}
        self.t = [every[-1 - k] for k in sorted(before_end, reverse=True)]
        self.x = torch.full((len(self.t), points, 2), math.nan)
        self.x0_hat = torch.full((len(self.t), points, 2), math.nan)
        self._frame: dict[float, int] = {t: k for k, t in enumerate(self.t)}

    def observer(self, start: int) -> Observer:
        """Keep what belongs to the points from number `start` on."""
        rows = slice(start, self.x.shape[1])

        def observe(t: float, x_t: Batch, x0_hat: Batch) -> None:
            if t in self._frame and start < self.x.shape[1]:
                for kept, seen in ((self.x, x_t), (self.x0_hat, x0_hat)):
                    place = kept[self._frame[t], rows][: len(seen)]
                    place.copy_(seen[: len(place)])

        return observe


def draw_samples(
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[int],
    *,
    n: int,
    block: int,
    seed: int,
    device: torch.device,
    trajectories: Trajectories | None = None,
) -> Float[Tensor, "n 2"]:
    """Sample n points from N(0, I) in blocks, so that memory is bounded by the block.

    Each block has its own random stream: the number of cores that share the blocks changes nothing.

    Args:
        sampler: Makes each move.
        denoiser: What is known of the clean data.
        times: Where the denoiser is asked, falling.
        n: Number of points.
        block: How many at once.
        seed: Of all the noise: the same seed gives any denoiser the same noise.
        device: Where the denoiser computes.
        trajectories: Is filled on the way, if given.

    Returns:
        Points in model units, float32, on the CPU.
    """
    starts = range(0, n, block)
    bar = tqdm(total=len(starts) * (len(times) + 1), desc="sample", unit="step", disable=None)

    @torch.no_grad()
    def sample_block(start: int) -> Tensor:
        generator = stream(seed, f"sample/{start}", device)
        x_T = torch.randn(min(block, n - start), 2, generator=generator, device=device)
        keep = trajectories.observer(start) if trajectories else None

        def observe(t: float, x_t: Batch, x0_hat: Batch) -> None:
            if keep:
                keep(t, x_t, x0_hat)
            bar.update()

        return reverse(sampler, denoiser, x_T, times, generator=generator, observe=observe).cpu()

    with bar:
        return torch.cat(in_parallel(sample_block, starts, device))


def sampler_of(params: Params) -> Sampler:
    """The sampler that params.yaml names.

    Raises:
        UserError: If its name or its settings are not allowed.
    """
    name = params.sampler
    kind = choose("sampler", name, SAMPLERS)
    return settings(f"samplers.{name}", kind, section("samplers", name, params.samplers))


SAMPLERS: dict[str, type[Sampler]] = {"ddpm": DDPM, "ddim": DDIM}

SPACINGS: dict[str, Callable[[int, int], list[float]]] = {
    "trailing": _trailing,
    "leading": _leading,
    "linspace": _linspace,
    "quadratic": _quadratic,
}
