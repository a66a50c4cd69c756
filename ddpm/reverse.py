"""The way back from noise to data: one loop for all samplers.

A sampler makes one move, `step`, from x_t to x_s with s < t; the loop keeps what it has seen for
those that look back, counts the evaluations of the denoiser, and shows every moment to an observer.
It takes any `Denoiser`: the network's or the exact truth's.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ddpm.params import Settings
from ddpm.process import Batch, Denoiser
from ddpm.runtime import in_parallel, stream

# Called at every moment with t, x_t and x0_hat, noisiest first; at t = 0 both points are x_0.
Observer = Callable[[float, Batch, Batch], None]

# Moves that the loop remembers.
_REMEMBERED = 3
# Clean points that a sampler measures a denoiser on: a mean over these is good to a few per cent.
_MEASURED = 2000


class Moment(NamedTuple):
    """What was known at a time on the way.

    Attributes:
        t: The time.
        x_t: The point, after any correction.
        x0_hat: The estimate of x_0 that the move from there goes by.
    """

    t: float
    x_t: Batch
    x0_hat: Batch


class Sampler(Settings, ABC):
    """A way back from noise to data: its settings as fields, and one reverse move.

    Attributes:
        uses_log_snr: Whether it works in log SNR, which must then be finite at T.
        adaptive: Whether it finds its own steps between the times that it is given.
    """

    uses_log_snr: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    @property
    def deterministic(self) -> bool:
        """Whether x_T alone decides where it arrives."""
        return True

    def steps_within(self, evaluations: int) -> int:
        """The most steps that cost no more than so many evaluations."""
        return evaluations

    @abstractmethod
    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """Go from time t to s.

        Args:
            denoiser: What is known of the clean data.
            x_t: Points, model units.
            t: Their time, in (0, T].
            s: Where to go, in [0, t).
            past: Earlier moments, the latest last.
            generator: Source of the noise.

        Returns:
            x_s, and what was known at t.
        """

    def prepared(
        self,
        denoiser: Denoiser,
        times: Sequence[float],
        clean: Batch,
        *,
        seed: int,
    ) -> "Sampler":
        """The sampler with what it must measure of a denoiser before it starts; mostly itself.

        Args:
            denoiser: What it will ask.
            times: At which.
            clean: Clean points to measure on, model units.
            seed: Of their noise.
        """
        return self


class Arrival(NamedTuple):
    """Points at the end of the way, and how many evaluations of the denoiser each has cost."""

    x: Batch
    evaluations: int


def reverse(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Batch,
    times: Sequence[float],
    *,
    generator: torch.Generator,
    end: float = 0,
    past: Sequence[Moment] = (),
    observe: Observer | None = None,
) -> Arrival:
    """Run the reverse process from noise to data: the one loop of all samplers.

    Args:
        sampler: Makes each move.
        denoiser: What is known of the clean data.
        x_T: Where to start, model units.
        times: Where to stop on the way, falling; x_T is at the first of them.
        generator: Source of the noise.
        end: Where the last move goes, below all times.
        past: Moments before the first, for samplers that look back.
        observe: Is shown every moment.

    Returns:
        Points at the end, model units, and the evaluations of the denoiser, as they were counted.
    """
    evaluations = 0

    def counted(x: Batch, t: Float[Tensor, " #batch"]) -> Batch:
        nonlocal evaluations
        evaluations += 1
        return denoiser.function(x, t)

    asked = replace(denoiser, function=counted)
    x, seen = x_T, list(past)
    for t, s in itertools.pairwise((*times, end)):
        x_s, moment = sampler.step(asked, x, t, s, past=seen, generator=generator)
        if observe is not None:
            observe(t, moment.x_t, moment.x0_hat)
        x, seen = x_s, [*seen[1 - _REMEMBERED :], moment]
    if observe is not None:
        observe(end, x, x)
    return Arrival(x, evaluations)


class Trajectories:
    """The moments of a few points, kept while they are sampled.

    Args:
        times: All moments, falling, without 0.
        frames: How many to keep at most, the first and t = 0 among them; denser towards the data,
            where most happens.
        points: How many points to keep.
    """

    def __init__(self, times: Sequence[float], frames: int, points: int) -> None:
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
    times: Sequence[float],
    *,
    n: int,
    block: int,
    seed: int,
    device: torch.device,
    clean: Batch,
    trajectories: Trajectories | None = None,
) -> Arrival:
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
        clean: Points that a sampler may measure the denoiser on before it starts, model units.
        trajectories: Is filled on the way, if given.

    Returns:
        Points in model units, float32, on the CPU; and the evaluations, the most of any block.
    """
    starts = range(0, n, block)
    clean = clean[:_MEASURED].float().to(device)
    sampler = sampler.prepared(denoiser, times, clean, seed=seed)
    bar = tqdm(total=len(starts) * (len(times) + 1), desc="sample", unit="step", disable=None)

    @torch.no_grad()
    def sample_block(start: int) -> Arrival:
        generator = stream(seed, f"sample/{start}", device)
        x_T = torch.randn(min(block, n - start), 2, generator=generator, device=device)
        keep = trajectories.observer(start) if trajectories else None

        def observe(t: float, x_t: Batch, x0_hat: Batch) -> None:
            if keep:
                keep(t, x_t, x0_hat)
            bar.update()

        return reverse(sampler, denoiser, x_T, times, generator=generator, observe=observe)

    with bar:
        arrivals = in_parallel(sample_block, starts, device)
    points = torch.cat([arrival.x.cpu() for arrival in arrivals])
    return Arrival(points, max(arrival.evaluations for arrival in arrivals))


def normal_like(x: Batch, generator: torch.Generator) -> Batch:
    """Standard normal noise with the shape, device and precision of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
