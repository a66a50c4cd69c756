"""The two sampling loops that `benchmarks.libraries` compares: ours, and that of diffusers.

Both draw from the same noise with the same network at the same times: those of the spacing
`trailing`, which are whole numbers as diffusers needs them.
"""

import functools
import time
from collections.abc import Callable

import torch

from benchmarks.libraries_training import cpu_params, run_training
from ddpm.core.compute import stream
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS, Batch
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import sampling_times
from stages.common.sampler import sampler_of

# The time does not depend on the weights, so that the network is hardly trained.
_TRAINING_STEPS = 200
# Draws behind one timing: at least so many, and at least so many points.
_MIN_DRAWS, _MIN_POINTS = 4, 2000
_SPACING = "trailing"

# Our samplers in diffusers.
SCHEDULERS: dict[str, tuple[str, dict[str, object]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

# Draws n samples with a number of evaluations for each; called as draw(evaluations, n).
Draw = Callable[[int, int], Batch]


def time_ours(*, sampler: str, evaluations: int, n: int, threads: int, pinned: bool) -> float:
    """Seconds to draw n samples with our loop.

    With pinned arithmetic torch has one thread, and `threads` share blocks as in stage `sample`.
    """
    params = cpu_params()
    denoiser = _denoiser()
    settings = sampler_of(params, denoiser.schedule, sampler)
    torch.set_num_threads(1 if pinned else threads)
    block = params.sample.block if pinned and threads > 1 else n
    return _seconds(our_draw(denoiser, settings, block), evaluations, n)


def time_diffusers(*, sampler: str, evaluations: int, n: int, threads: int) -> float:
    """Seconds to draw n samples with the loop of diffusers."""
    draw = diffusers_draw(_denoiser(), sampler)
    torch.set_num_threads(threads)
    return _seconds(draw, evaluations, n)


def our_draw(denoiser: Denoiser, sampler: Sampler, block: int) -> Draw:
    """Our loop, in blocks of points."""

    def draw(evaluations: int, n: int) -> Batch:
        times = sampling_times(_SPACING, denoiser.schedule, evaluations)
        return draw_samples(sampler, denoiser, times, n=n, seed=0, block=block).x

    return draw


def diffusers_draw(denoiser: Denoiser, sampler: str) -> Draw:
    """The loop of diffusers, with its counterpart of one of our samplers."""
    import diffusers  # it takes seconds

    schedule = denoiser.schedule
    kind, options = SCHEDULERS[sampler]
    (prediction,) = (name for name, kind in PREDICTIONS.items() if kind is denoiser.prediction)
    scheduler = getattr(diffusers, kind)(
        schedule.T,
        trained_betas=schedule.beta[1:].numpy(),
        prediction_type=_PREDICTION_TYPES[prediction],
        timestep_spacing=_SPACING,
        **options,
    )

    @torch.no_grad()
    def draw(evaluations: int, n: int) -> Batch:
        scheduler.set_timesteps(evaluations)
        x = torch.randn(n, 2, generator=stream(0, "sample/0"))
        for t in scheduler.timesteps:
            # Their index 0 is our t = 1.
            output = denoiser.function(x, (t + 1).float()[None])
            x = scheduler.step(output, t, x).prev_sample
        return x

    return draw


def _seconds(draw: Draw, evaluations: int, n: int) -> float:
    """Time of the fastest of several draws: the one that other processes disturbed least."""
    seconds = []
    for _ in range(max(_MIN_DRAWS, _MIN_POINTS // n)):
        start = time.perf_counter()
        draw(evaluations, n)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@functools.cache
def _denoiser() -> Denoiser:
    """A network as shipped, to sample from."""
    return run_training(_TRAINING_STEPS)[1].denoiser
