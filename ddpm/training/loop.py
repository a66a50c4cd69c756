"""The training loop: AdamW with warm-up and decay, and an exponential average of the weights.

Batches are drawn ahead of the steps on a second thread, where a core is free. They depend only on
their own random stream, so this changes no bit.

References:
    Loshchilov & Hutter 2019 (AdamW), https://arxiv.org/abs/1711.05101
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from tqdm import tqdm

from ddpm.core.compute import ahead, one_thread_for_matrices, stream
from ddpm.core.errors import UserError
from ddpm.core.gradient import HasLossGradient, LossGradient
from ddpm.core.params import TrainSettings
from ddpm.training.checkpoint import Checkpoint
from ddpm.training.neighbours import NeighbourSets
from ddpm.training.progress import CheckpointTimer, Progress, Record
from ddpm.training.task import Task, TrainingBatch, denoising_loss

# Batches are drawn for this many points at once. The two threads take turns at Python's own work,
# so few large operations are better than many small ones, even though they leave the cache.
_CHUNK_POINTS = 65_536
_BETAS = (0.9, 0.99)
# Test points of the validation loss, each with one eps; fewer points are used repeatedly.
_VALIDATION_POINTS = 10_000


class _Chunk(NamedTuple):
    """Inputs and target of each of several steps, and the generator's state before all of them."""

    generator: Tensor
    batches: list[tuple[tuple[Tensor, ...], Tensor]]


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step in 0 ... steps - 1: linear warm-up times a cosine from 1 to 0."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * warmup * (1 + math.cos(math.pi * step / settings.steps)) / 2


def train(
    network: nn.Module,
    task: Task,
    points: Float[Tensor, "n 2"],
    test_points: Float[Tensor, "m 2"],
    *,
    settings: TrainSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
    labels: Int64[Tensor, " n"] | None = None,
    test_labels: Int64[Tensor, " m"] | None = None,
) -> tuple[nn.Module, list[Record]]:
    """Train a network in place.

    Args:
        network: Initialised network, on the device of the points. It ends with the weights of the
            last step.
        task: Schedule, prediction type, and settings of the loss.
        points: Training points, model units.
        test_points: Points for the validation loss, model units.
        settings: Settings of the optimisation.
        seed: Seed of the batches, and of the times and noise of the validation loss.
        checkpoint: Where to store the unfinished training and resume it from. Resumed training ends
            with the same bits as uninterrupted training.
        labels: Labels of the training points, if the task has labels; on the CPU.
        test_labels: Labels of the test points, likewise.

    Returns:
        A copy of the network with the averaged weights, and the training curve.

    Raises:
        UserError: If the loss is no longer finite.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> loss = ddpm.LossSettings(neighbours=64, time_power=0.5, integer_times=False)
        >>> task = Task(schedule, ddpm.PREDICTIONS["v"], loss)
        >>> sizes = {"width": 16, "blocks": 1, "fourier_features": 8, "time_features": 4}
        >>> network_settings = ddpm.ResidualMLPSettings(**sizes, fourier_scale=0.3)
        >>> network = network_settings.create(1000, generator=torch.Generator().manual_seed(0))
        >>> points = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
        >>> adamw = {"lr": 4e-3, "warmup": 5, "weight_decay": 0, "grad_clip": 1, "ema_decay": 0.9}
        >>> settings = TrainSettings(steps=20, batch=64, log_every=10, **adamw)
        >>> averaged, curve = train(network, task, points, points, settings=settings, seed=0)
        >>> [record.step for record in curve]
        [10, 20]
    """
    device = points.device
    validation = validation_batch(task, test_points.cpu(), seed, test_labels).to(device)
    averaged = copy.deepcopy(network)
    weights, average = _as_one_vector(network), _as_one_vector(averaged)
    optimizer = torch.optim.AdamW(
        [weights], lr=settings.lr, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
    )
    gradient = _gradient(network, weights, settings.batch)
    progress = Progress(weights, average, optimizer, torch.zeros((), device=device))
    generator = stream(seed, "train/batches", device)
    if checkpoint is not None:
        progress.resume(checkpoint, generator)
    seeded = stream(seed, "train/neighbours")
    sets = NeighbourSets.of(points, task.loss.neighbours, generator=seeded, labels=labels)
    draw = partial(task.batch, sets)
    chunks = _chunks(draw, gradient.inputs, generator, settings, progress.step)
    timer = CheckpointTimer()
    bar = tqdm(initial=progress.step, total=settings.steps, desc="train", unit="step", disable=None)
    with bar, one_thread_for_matrices():
        for chunk in ahead(chunks, device):
            # Save between chunks only: the rest of a chunk is not part of the state.
            if checkpoint is not None and timer.is_due():
                timer.run(partial(progress.save, checkpoint, chunk.generator))
            for inputs, target in chunk.batches:
                step = progress.step
                lr = optimizer.param_groups[0]["lr"] = learning_rate(settings, step)
                loss = gradient(inputs, target)
                norm = _clip(weights.grad, settings.grad_clip)  # type: ignore[arg-type]
                optimizer.step()
                # Start with a small decay; otherwise the initial weights dominate for long.
                decay = min(settings.ema_decay, (1 + step) / (10 + step))
                average.data.lerp_(weights.data, 1 - decay)
                progress.add(loss)
                if progress.step % settings.log_every == 0 or progress.step == settings.steps:
                    with torch.no_grad():
                        val_loss = float(denoising_loss(averaged, validation))
                    record = progress.record(val_loss, lr, float(norm))
                    _refuse_divergence(record, settings)
                    bar.set_postfix(loss=f"{record.loss:.4f}", val=f"{val_loss:.4f}")
            bar.update(len(chunk.batches))
    return averaged, progress.records


def validation_batch(
    task: Task,
    test_points: Float[Tensor, "m 2"],
    seed: int,
    test_labels: Int64[Tensor, " m"] | None = None,
) -> TrainingBatch:
    """Make the batch of the validation loss, which has the same t and eps whenever it is made.

    Args:
        task: Schedule, prediction type, and density of t.
        test_points: Test points, model units, on the CPU.
        seed: Seed of the training.
        test_labels: Their labels, on the CPU, if the task has labels.
    """
    repeats = -(-_VALIDATION_POINTS // len(test_points))
    x0 = test_points.repeat(repeats, 1)[:_VALIDATION_POINTS]
    if test_labels is not None:
        test_labels = test_labels.repeat(repeats)[:_VALIDATION_POINTS]
    generator = stream(seed, "train/validation")
    return task.validation_batch(x0, generator=generator, labels=test_labels)


def _chunks(
    draw: Callable[..., TrainingBatch],
    inputs: Callable[..., tuple[Tensor, ...]],
    generator: torch.Generator,
    settings: TrainSettings,
    start: int,
) -> Iterator[_Chunk]:
    """Draw the batches from step `start` on."""
    chunk_steps = max(1, _CHUNK_POINTS // settings.batch)
    for first in range(start, settings.steps, chunk_steps):
        steps = min(chunk_steps, settings.steps - first)
        state = generator.get_state()
        batch = draw(shape=(steps, settings.batch), generator=generator)
        each = zip(*inputs(*batch.inputs), strict=True)
        yield _Chunk(state, list(zip(each, batch.target, strict=True)))


class _Autograd:
    """The gradient of any network."""

    def __init__(self, network: nn.Module, weights: nn.Parameter) -> None:
        self.network, self.weights = network, weights

    def inputs(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        return (x_t, t) if label is None else (x_t, t, label)

    def __call__(self, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        self.weights.grad.zero_()  # type: ignore[union-attr]
        x_t, t, *labels = inputs
        loss = denoising_loss(self.network, TrainingBatch(x_t, t, target, *labels))
        loss.backward()
        return loss.detach()


def _gradient(network: nn.Module, weights: nn.Parameter, batch: int) -> LossGradient:
    """Choose the network's own code for loss and gradient, if it has any, or autograd."""
    own = network.loss_gradient(batch) if isinstance(network, HasLossGradient) else None
    return own or _Autograd(network, weights)


def _as_one_vector(network: nn.Module) -> nn.Parameter:
    """Make all weights, and all gradients, views of one vector, and return it.

    Optimiser, clipping and average are then one operation in each step, instead of one for each
    layer. For a small network this saves a good part of the time.
    """
    parameters = list(network.parameters())
    vector = nn.Parameter(nn.utils.parameters_to_vector(parameters).detach())
    vector.grad = torch.zeros_like(vector)
    sizes = [parameter.numel() for parameter in parameters]
    parts = zip(parameters, vector.data.split(sizes), vector.grad.split(sizes), strict=True)
    for parameter, weight, gradient in parts:
        parameter.data = weight.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return vector


def _clip(gradient: Tensor, largest: float) -> Tensor:
    """Scale a gradient in place so that its norm is at most `largest`; returns the norm before.

    `nn.utils.clip_grad_norm_` gives the same bits on the CPU, but for a small network it takes a
    twentieth of the training.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((largest / (norm + 1e-6)).clamp(max=1))
    return norm


def _refuse_divergence(record: Record, settings: TrainSettings) -> None:
    if not all(math.isfinite(value) for value in record):
        raise UserError(
            f"training diverged by step {record.step} (loss {record.loss:.3g}) with"
            f" train.lr = {settings.lr:g}; lower train.lr in params.yaml"
        )
