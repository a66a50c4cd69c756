"""The reverse process from noise to data: one loop for all samplers."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ddpm.core.compute import in_parallel, stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import Batch
from ddpm.sampling.sampler import ReverseStep, Sampler, SamplerState

# Called with (t, x_t, x0_hat) at every time, from noise to data; at t = 0 both are x_0.
Observer = Callable[[float, Batch, Batch], None]

# Clean points on which a sampler measures a denoiser: enough for a mean to a few per cent.
_MAX_CLEAN = 2000


class SamplingResult(NamedTuple):
    """Sampled points, and the number of denoiser evaluations behind each."""

    x: Batch
    evaluations: int


def run_sampler(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Batch,
    times: Sequence[float],
    *,
    generator: torch.Generator,
    end: float = 0,
    history: Sequence[SamplerState] = (),
    observe: Observer | None = None,
) -> SamplingResult:
    """Run all steps of a sampler on one batch of points.

    Args:
        sampler: The sampler, as returned by its `prepared`.
        denoiser: Estimates x_0.
        x_T: Points at the first time, model units.
        times: Decreasing times from which the steps start.
        generator: Source of the noise.
        end: Time at which the last step ends, below all times.
        history: States before the first step, for samplers that use earlier states.
        observe: Function to call at every time.

    Returns:
        Points at `end`, model units, and the number of denoiser evaluations.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> point = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
        >>> denoiser = ddpm.ExactDistribution.from_points(point, schedule).denoiser
        >>> generator = torch.Generator().manual_seed(0)
        >>> x_T = torch.randn(3, 2, dtype=torch.float64, generator=generator)
        >>> result = run_sampler(ddpm.DDIM(eta=0), denoiser, x_T, [1000, 500], generator=generator)
        >>> bool(torch.allclose(result.x, point.expand(3, 2))), result.evaluations
        (True, 2)
    """
    evaluations = 0

    def counting(denoiser: Denoiser) -> Denoiser:
        def counted(x: Batch, t: Float[Tensor, " #batch"]) -> Batch:
            nonlocal evaluations
            evaluations += denoiser.evaluations
            return denoiser.function(x, t)

        return replace(denoiser, function=counted)

    # A function, whose variables end with the step. Points that are kept longer than needed lie in
    # memory that the network would use again, which makes it 3 to 6 % slower with 10,000 points.
    def advance(
        piece: Denoiser, x: Batch, states: Sequence[SamplerState], t: float, s: float
    ) -> tuple[Batch, Sequence[SamplerState]]:
        x_s, state = sampler.step(ReverseStep(counting(piece), x, t, s, states, generator))
        if observe is not None:
            observe(t, state.x_t, state.x0_hat)
        states = [*states, state]
        return x_s, states[max(0, len(states) - sampler.earlier_states) :]

    x, states = x_T, history
    for t, s in itertools.pairwise((*times, end)):
        if any(piece.lowest == t for piece in denoiser.pieces):
            # Earlier states are on the other side of a jump.
            states = ()
        x, states = advance(denoiser.before(t), x, states, t, s)
    if observe is not None:
        observe(end, x, x)
    return SamplingResult(x, evaluations)


class Trajectories:
    """Records x_t and the predicted x_0 of a few points at selected times during sampling.

    Args:
        times: All times of the sampler, decreasing, without 0.
        frames: Largest number of times to record. They include the first time and t = 0, and are
            denser towards the data, where the points change most.
        points: Number of points to record.

    Attributes:
        t: The recorded times.
        x: Points x_t, shape (times, points, 2), in the units of the sampler: model units.
        x0_hat: Predicted x_0 of the same points.
    """

    def __init__(self, times: Sequence[float], frames: int, points: int) -> None:
        all_times = (*times, 0)
        steps_to_end = {round(len(times) * (k / (frames - 1)) ** 2) for k in range(frames)}
        self.t = [all_times[-1 - steps] for steps in sorted(steps_to_end, reverse=True)]
        self.x = torch.full((len(self.t), points, 2), math.nan)
        self.x0_hat = torch.full((len(self.t), points, 2), math.nan)
        self._frame: dict[float, int] = {t: k for k, t in enumerate(self.t)}

    def observer(self, start: int) -> Observer:
        """Return an observer for a block of points whose first has the index `start`."""
        rows = slice(start, self.x.shape[1])

        def observe(t: float, x_t: Batch, x0_hat: Batch) -> None:
            if t in self._frame and start < self.x.shape[1]:
                for record, points in ((self.x, x_t), (self.x0_hat, x0_hat)):
                    target = record[self._frame[t], rows][: len(points)]
                    target.copy_(points[: len(target)])

        return observe


def draw_samples(
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
    *,
    n: int,
    seed: int,
    block: int | None = None,
    device: torch.device | str = "cpu",
    clean: Batch | None = None,
    trajectories: Trajectories | None = None,
) -> SamplingResult:
    """Draw n samples, starting from N(0, I), in blocks that bound the memory.

    Each block has its own random stream, so the result does not depend on the number of threads.

    Args:
        sampler: The sampler.
        denoiser: Estimates x_0.
        times: Decreasing times from which the steps start, such as `sampling_times` returns.
        n: Number of samples.
        seed: Seed of all noise. The same seed gives every denoiser the same noise.
        block: Number of points that are sampled together; by default, all.
        device: Device of the denoiser.
        clean: Clean points, model units, on which the sampler may measure the denoiser first. Only
            `DDPM(variance="analytic")` needs them.
        trajectories: Record to fill during sampling.

    Returns:
        Samples in model units, float32, on the CPU, and the largest number of denoiser evaluations
        of any block.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> point = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
        >>> denoiser = ddpm.ExactDistribution.from_points(point, schedule).denoiser
        >>> times = ddpm.sampling_times("log_snr", schedule, 10)
        >>> samples, evaluations = draw_samples(ddpm.UniPC(), denoiser, times, n=100, seed=0)
        >>> samples.shape, evaluations
        (torch.Size([100, 2]), 10)
    """
    device = torch.device(device)
    block = n if block is None else block
    starts = range(0, n, block)
    if clean is not None:
        clean = clean[:_MAX_CLEAN].float().to(device)
        sampler = sampler.prepared(denoiser, times, clean, seed=seed)
    # One tensor for all: thousands of small ones, between the buffers of the blocks, would break
    # the memory into pieces that cannot be used again.
    points = torch.empty(n, 2)
    progress = tqdm(total=len(starts) * (len(times) + 1), desc="sample", unit="step", disable=None)

    @torch.no_grad()
    def sample_block(start: int) -> int:
        generator = stream(seed, f"sample/{start}", device)
        x_T = torch.randn(min(block, n - start), 2, generator=generator, device=device)
        record = trajectories.observer(start) if trajectories else None

        def observe(t: float, x_t: Batch, x0_hat: Batch) -> None:
            if record:
                record(t, x_t, x0_hat)
            progress.update()

        x, evaluations = run_sampler(
            sampler, denoiser, x_T, times, generator=generator, observe=observe
        )
        points[start : start + block] = x
        return evaluations

    with progress:
        evaluations = in_parallel(sample_block, starts, device)
    return SamplingResult(points, max(evaluations))
