"""The training loop, with the denoising loss and an exponential average of the weights.

    L = E_{t, x_0, eps} | network(x_t, t) - target(x_0, eps, t) |^2 / 2

with t uniform on 1 ... T. A batch is stratified: the range is divided into as many equal parts as
the batch has points, and one t is drawn from each. The loss then has the same mean as with
independent t, and less variance.

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

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import TrainSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import Prediction
from ddpm.diffusion.process import coefficients, q_sample
from ddpm.diffusion.schedule import Schedule
from ddpm.training.checkpoint import Checkpoint

# Random numbers are drawn for this many steps at once, or for this many points if that is less: one
# large draw is cheaper than many small ones.
_CHUNK, _CHUNK_POINTS = 100, 1_000_000
_BETAS = (0.9, 0.99)
# Draws of (t, eps) for each test point. With fewer, the validation loss has a visible error.
_VALIDATION_DRAWS = 4
# Names of AdamW's state for each weight.
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Time between checkpoints: one second, or 20 times as long as saving one takes if that is more.
_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO = 1.0, 20
# Of more test points than this, the validation loss uses the first: they are enough.
_MAX_VALIDATION_POINTS = 10_000


class TrainingBatch(NamedTuple):
    """Inputs of the network, and the values that it should predict."""

    x_t: Float[Tensor, "*chunk batch 2"]
    t: Float[Tensor, "*chunk batch"]
    target: Float[Tensor, "*chunk batch 2"]


class Record(NamedTuple):
    """One row of the training curve. Losses are means over points and coordinates.

    Attributes:
        step: Number of steps done.
        loss: Mean training loss since the previous record.
        val_loss: Loss of the averaged weights on the test points, always with the same t and eps.
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
    """What the network learns: a schedule and a prediction type, which turn points into batches.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> task = Task(schedule, ddpm.PREDICTIONS["v"])
        >>> generator = torch.Generator().manual_seed(0)
        >>> x_t, t, target = task.batch(torch.zeros(8, 2), generator=generator)
        >>> [int(time) // 125 for time in t - 1]  # one in each eighth of the range
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    schedule: Schedule
    prediction: Prediction

    def batch(
        self, x0: Float32[Tensor, "*chunk batch 2"], *, generator: torch.Generator
    ) -> TrainingBatch:
        """Add noise to clean points (model units) at times that are stratified over the batch."""
        T, device = self.schedule.T, x0.device
        *_, n, _ = x0.shape
        strata = torch.rand(x0.shape[:-1], generator=generator, device=device)
        strata = (strata + torch.arange(n, device=device)) / n
        # Rounding may make the last stratum reach 1, and t would be T + 1.
        t = (strata * T).long().clamp(max=T - 1) + 1
        eps = torch.randn(x0.shape, generator=generator, device=device)
        a, sigma = coefficients(self.schedule, t, like=x0)
        target = self.prediction.target(x0, eps, a, sigma)
        return TrainingBatch(q_sample(self.schedule, x0, t, eps), t.float(), target)

    def denoiser(self, network: nn.Module) -> Denoiser:
        """Wrap a network that was trained on this task, to sample from it and to measure it."""
        return Denoiser(network.eval(), self.prediction, self.schedule, torch.float32)


def denoising_loss(network: nn.Module, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean squared error of the prediction, over points and coordinates."""
    error: Tensor = network(batch.x_t, batch.t) - batch.target
    return error.square().mean()


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step in 0 ... steps - 1: linear warm-up times a cosine from 1 to 0."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * warmup * (1 + math.cos(math.pi * step / settings.steps)) / 2


def train(
    network: nn.Module,
    task: Task,
    points: Float32[Tensor, "n 2"],
    test_points: Float32[Tensor, "m 2"],
    *,
    settings: TrainSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, list[Record]]:
    """Train a network in place.

    Args:
        network: Initialised network, on the device of the points. It ends with the weights of the
            last step.
        task: Schedule and prediction type.
        points: Training points, model units.
        test_points: Points for the validation loss, model units.
        settings: Settings of the optimisation.
        seed: Seed of the batches, and of the times and noise of the validation loss.
        checkpoint: Where to store the unfinished training and resume it from. Resumed training ends
            with the same bits as uninterrupted training.

    Returns:
        A copy of the network with the averaged weights, and the training curve.

    Raises:
        UserError: If the loss is no longer finite.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> task = Task(schedule, ddpm.PREDICTIONS["v"])
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
    generator = stream(seed, "train/batches", device)
    validation = task.batch(
        test_points[:_MAX_VALIDATION_POINTS].repeat(_VALIDATION_DRAWS, 1),
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
    timer = _CheckpointTimer()
    with tqdm(
        initial=state.step, total=settings.steps, desc="train", unit="step", disable=None
    ) as bar:
        for step in range(state.step, settings.steps):
            if step % chunk_steps == 0:
                # Save between chunks only: the rest of a chunk is not part of the state.
                if checkpoint is not None and timer.is_due():
                    timer.run(lambda: state.save(checkpoint))
                steps = min(chunk_steps, settings.steps - step)
                indices = torch.randint(
                    len(points), (steps, settings.batch), generator=generator, device=device
                )
                chunk = task.batch(points[indices], generator=generator)
            lr = optimizer.param_groups[0]["lr"] = learning_rate(settings, step)
            loss = denoising_loss(
                network, TrainingBatch(*(part[step % chunk_steps] for part in chunk))
            )
            weights.grad.zero_()  # type: ignore[union-attr]
            loss.backward()
            norm = nn.utils.clip_grad_norm_([weights], settings.grad_clip)
            optimizer.step()
            # Start with a small decay; otherwise the initial weights dominate the average for long.
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            average.data.lerp_(weights.data, 1 - decay)
            state.loss_sum = state.loss_sum + loss.detach()
            state.loss_count += 1
            state.step = step + 1
            bar.update()
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                with torch.no_grad():
                    val_loss = float(denoising_loss(averaged, validation))
                mean_loss = float(state.loss_sum) / state.loss_count
                record = Record(state.step, mean_loss, val_loss, lr, float(norm))
                _refuse_divergence(record, settings)
                state.records.append(record)
                bar.set_postfix(loss=f"{record.loss:.4f}", val=f"{val_loss:.4f}")
                state.loss_sum, state.loss_count = torch.zeros_like(state.loss_sum), 0
    return averaged, state.records


@dataclass
class _State:
    """Everything that changes during training, from which it can resume between two chunks."""

    weights: nn.Parameter
    average: nn.Parameter
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    loss_sum: Tensor
    loss_count: int = 0
    step: int = 0
    records: list[Record] = field(default_factory=list)

    def save(self, checkpoint: Checkpoint) -> None:
        progress = {
            "step": self.step,
            "loss_count": self.loss_count,
            "records": self.records,
        }
        checkpoint.save(self._tensors(), progress)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint, if there is one."""
        # AdamW would create its state in the first step, but a checkpoint is copied into it before.
        moments = {name: torch.zeros_like(self.weights.data) for name in _MOMENTS}
        steps = {"step": torch.zeros((), device=self.weights.device)}
        self.optimizer.state[self.weights] = steps | moments
        current = self._tensors()
        saved = checkpoint.load()
        if saved is None:
            return
        tensors, progress = saved
        self.generator.set_state(tensors.pop("generator"))
        for name, tensor in tensors.items():
            current[name].copy_(tensor)
        self.step, self.loss_count = progress["step"], progress["loss_count"]
        self.records = [Record(*record) for record in progress["records"]]
        print(f"resuming training after step {self.step}, from {checkpoint.path}")

    def _tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state[self.weights]
        return {
            "weights": self.weights.data,
            "average": self.average.data,
            **{name: state[name] for name in ("step", *_MOMENTS)},
            "generator": self.generator.get_state(),
            "loss_sum": self.loss_sum,
        }


class _CheckpointTimer:
    """Decides when a checkpoint is due: every second, and more rarely if saving one takes long."""

    def __init__(self) -> None:
        self.due = time.monotonic() + _CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        return time.monotonic() >= self.due

    def run(self, save: Callable[[], None]) -> None:
        start = time.monotonic()
        save()
        end = time.monotonic()
        self.due = end + max(_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO * (end - start))


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


def _refuse_divergence(record: Record, settings: TrainSettings) -> None:
    if not all(math.isfinite(value) for value in record):
        raise UserError(
            f"training diverged by step {record.step} (loss {record.loss:.3g}) with"
            f" train.lr = {settings.lr:g}; lower train.lr in params.yaml"
        )
