"""What changes during training: weights, optimiser, training curve, and when they are saved."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.training.checkpoint import Checkpoint

# Names of AdamW's state for each weight.
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Time between checkpoints: one second, or 20 times as long as saving one takes if that is more.
_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO = 1.0, 20


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


@dataclass
class Progress:
    """Everything that changes during training, from which it can resume between two chunks.

    Attributes:
        weights: All weights of the network, as one vector.
        average: Their exponential average.
        optimizer: AdamW on the weights.
        loss_sum: Sum of the losses since the last record.
        loss_count: Number of these losses.
        step: Number of steps done.
        records: The training curve.
    """

    weights: nn.Parameter
    average: nn.Parameter
    optimizer: torch.optim.Optimizer
    loss_sum: Tensor
    loss_count: int = 0
    step: int = 0
    records: list[Record] = field(default_factory=list)

    def add(self, loss: Float[Tensor, ""]) -> None:
        """Count a step with this loss."""
        self.loss_sum += loss
        self.loss_count += 1
        self.step += 1

    def record(self, val_loss: float, lr: float, grad_norm: float) -> Record:
        """Append a row to the training curve, and start a new mean of the losses."""
        loss = float(self.loss_sum) / self.loss_count
        self.records.append(Record(self.step, loss, val_loss, lr, grad_norm))
        self.loss_sum.zero_()
        self.loss_count = 0
        return self.records[-1]

    def save(self, checkpoint: Checkpoint, generator: Tensor) -> None:
        """Store everything, with the state from which the generator draws the next batches."""
        progress = {
            "step": self.step,
            "loss_count": self.loss_count,
            "records": self.records,
        }
        checkpoint.save(self._tensors() | {"generator": generator}, progress)

    def resume(self, checkpoint: Checkpoint, generator: torch.Generator) -> None:
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
        generator.set_state(tensors.pop("generator"))
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
            "loss_sum": self.loss_sum,
        }


class CheckpointTimer:
    """Decides when a checkpoint is due: every second, and more rarely if saving one takes long."""

    def __init__(self) -> None:
        self.due = time.monotonic() + _CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self.due

    def run(self, save: Callable[[], None]) -> None:
        """Save, and choose the next time by how long that takes."""
        start = time.monotonic()
        save()
        end = time.monotonic()
        self.due = end + max(_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO * (end - start))
