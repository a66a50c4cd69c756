"""Training: the denoising loss, the average of the weights, and the loop.

    L = E_{t, x_0, eps} | network(x_t, t) - target(x_0, eps, t) |^2 / 2

with t uniform on 1 ... T, stratified over the batch: one draw in each of `batch` equal parts of the
range, which has the same mean and less variance than independent draws.

References:
    Ho et al. 2020, eq. 14 and algorithm 1, https://arxiv.org/abs/2006.11239
    Loshchilov & Hutter 2019 (AdamW), https://arxiv.org/abs/1711.05101
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from tqdm import tqdm

from ddpm.checkpoint import Checkpoint
from ddpm.errors import UserError
from ddpm.params import Train
from ddpm.process import Prediction, coefficients, q_sample
from ddpm.runtime import stream
from ddpm.schedules import Schedule

# Random numbers are drawn for so many steps at once, or for so many points if that is less: one
# large draw is cheaper than many small.
_CHUNK, _CHUNK_POINTS = 100, 1_000_000
_BETAS = (0.9, 0.99)
# Times and noises for each test point: fewer would leave the validation loss an offset one can see.
_VALIDATION_DRAWS = 4
# The optimiser's, per weight.
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Between checkpoints; and as many times as long as keeping one takes.
_EVERY_SECONDS, _LONGER = 1.0, 20
# More test points than these add nothing but time and memory.
_VALIDATION_POINTS = 10_000


class Batch(NamedTuple):
    """Inputs of the network and what it should say."""

    x_t: Float[Tensor, "*chunk batch 2"]
    t: Float[Tensor, "*chunk batch"]
    target: Float[Tensor, "*chunk batch 2"]


class Record(NamedTuple):
    """One line of the training curve; losses are means over points and coordinates.

    Attributes:
        step: Steps done.
        loss: Mean training loss since the last record.
        val_loss: Loss of the averaged weights on the test points, with the same noise every time.
        lr: Learning rate of the last step.
        grad_norm: Norm of the last step's gradient before clipping.
    """

    step: int
    loss: float
    val_loss: float
    lr: float
    grad_norm: float


@dataclass(frozen=True)
class Task:
    """What is to be learned: how to turn clean points into batches of (x_t, t, target)."""

    schedule: Schedule
    prediction: Prediction

    def batch(self, x0: Float32[Tensor, "*chunk batch 2"], *, generator: torch.Generator) -> Batch:
        """Noise clean points (model units), each at its own stratified time."""
        T, device = self.schedule.T, x0.device
        *_, n, _ = x0.shape
        strata = torch.rand(x0.shape[:-1], generator=generator, device=device)
        strata = (strata + torch.arange(n, device=device)) / n
        # Rounding may take the last stratum to T itself.
        t = (strata * T).long().clamp(max=T - 1) + 1
        eps = torch.randn(x0.shape, generator=generator, device=device)
        a, sigma = coefficients(self.schedule, t, like=x0)
        target = self.prediction.target(x0, eps, a, sigma)
        return Batch(q_sample(self.schedule, x0, t, eps), t.float(), target)


def loss_of(network: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean squared error over points and coordinates."""
    error: Tensor = network(batch.x_t, batch.t) - batch.target
    return error.square().mean()


def learning_rate(settings: Train, step: int) -> float:
    """Rate of step 0 ... steps - 1: linear warm-up times a cosine from 1 to 0."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * warm * (1 + math.cos(math.pi * step / settings.steps)) / 2


def train(
    network: nn.Module,
    task: Task,
    points: Float32[Tensor, "n 2"],
    test_points: Float32[Tensor, "m 2"],
    *,
    settings: Train,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, list[Record]]:
    """Train a network in place.

    Args:
        network: Initialised network, on the device of the points.
        task: Schedule and prediction.
        points: Training points, model units.
        test_points: Points of the validation loss, model units.
        settings: Optimisation.
        seed: Of the batches and of the validation's noise.
        checkpoint: Where to keep unfinished work and to take it up; the bits are the same.

    Returns:
        A network with the averaged weights, and the training curve.

    Raises:
        UserError: If the loss is no longer finite.
    """
    device = points.device
    generator = stream(seed, "train/batches", device)
    validation = task.batch(
        test_points[:_VALIDATION_POINTS].repeat(_VALIDATION_DRAWS, 1),
        generator=stream(seed, "train/validation", device),
    )
    averaged = copy.deepcopy(network)
    weights, average = _as_one_vector(network), _as_one_vector(averaged)
    optimizer = torch.optim.AdamW(
        [weights], lr=settings.lr, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
    )
    state = _State(weights, average, optimizer, generator, torch.zeros((), device=device))
    if checkpoint is not None:
        state.resume(checkpoint)
    chunk_steps = max(1, min(_CHUNK, _CHUNK_POINTS // settings.batch))
    pause = _Pause()
    with tqdm(
        initial=state.step, total=settings.steps, desc="train", unit="step", disable=None
    ) as bar:
        for step in range(state.step, settings.steps):
            if step % chunk_steps == 0:
                # Between two chunks nothing but the state determines what follows.
                if checkpoint is not None and pause.is_over():
                    pause.after(lambda: state.save(checkpoint))
                steps = min(chunk_steps, settings.steps - step)
                chosen = torch.randint(
                    len(points), (steps, settings.batch), generator=generator, device=device
                )
                chunk = task.batch(points[chosen], generator=generator)
            lr = optimizer.param_groups[0]["lr"] = learning_rate(settings, step)
            loss = loss_of(network, Batch(*(part[step % chunk_steps] for part in chunk)))
            weights.grad.zero_()  # type: ignore[union-attr]
            loss.backward()
            norm = nn.utils.clip_grad_norm_([weights], settings.grad_clip)
            optimizer.step()
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            average.data.lerp_(weights.data, 1 - decay)
            state.total, state.since = state.total + loss.detach(), state.since + 1
            state.step = step + 1
            bar.update()
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                with torch.no_grad():
                    val_loss = float(loss_of(averaged, validation))
                mean = float(state.total) / state.since
                record = Record(state.step, mean, val_loss, lr, float(norm))
                _refuse_divergence(record, settings)
                state.records.append(record)
                bar.set_postfix(loss=f"{record.loss:.4f}", val=f"{val_loss:.4f}")
                state.total, state.since = torch.zeros_like(state.total), 0
    return averaged, state.records


@dataclass
class _State:
    """All that changes in training, at the start of a chunk of steps."""

    weights: nn.Parameter
    average: nn.Parameter
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    total: Tensor
    since: int = 0
    step: int = 0
    records: list[Record] = field(default_factory=list)

    def save(self, checkpoint: Checkpoint) -> None:
        progress = {"step": self.step, "since": self.since, "records": self.records}
        checkpoint.save(self._tensors(), progress)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up what is kept, if anything is."""
        # The optimiser has no state before its first step.
        moments = {name: torch.zeros_like(self.weights.data) for name in _MOMENTS}
        steps = {"step": torch.zeros((), device=self.weights.device)}
        self.optimizer.state[self.weights] = steps | moments
        present = self._tensors()
        kept = checkpoint.load(present)
        if kept is None:
            return
        tensors, progress = kept
        self.generator.set_state(tensors.pop("generator"))
        for name, tensor in tensors.items():
            present[name].copy_(tensor)
        self.step, self.since = progress["step"], progress["since"]
        self.records = [Record(*record) for record in progress["records"]]
        print(f"going on after step {self.step}, from {checkpoint.path}")

    def _tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state[self.weights]
        return {
            "weights": self.weights.data,
            "average": self.average.data,
            **{name: state[name] for name in ("step", *_MOMENTS)},
            "generator": self.generator.get_state(),
            "total": self.total,
        }


class _Pause:
    """When to keep a checkpoint again: a moment later, and longer if keeping it takes long."""

    def __init__(self) -> None:
        self.until = time.monotonic() + _EVERY_SECONDS

    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def after(self, work: Callable[[], None]) -> None:
        start = time.monotonic()
        work()
        end = time.monotonic()
        self.until = end + max(_EVERY_SECONDS, _LONGER * (end - start))


def _as_one_vector(network: nn.Module) -> nn.Parameter:
    """Make all weights, and all gradients, views of one vector.

    The optimiser, the clipping and the average are then one operation a step instead of one for
    each layer, which saves a small network a good part of its time.
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


def _refuse_divergence(record: Record, settings: Train) -> None:
    if not all(math.isfinite(value) for value in record):
        raise UserError(
            f"training diverged by step {record.step} (loss {record.loss:.3g}) with"
            f" train.lr = {settings.lr:g}; lower train.lr in params.yaml"
        )
