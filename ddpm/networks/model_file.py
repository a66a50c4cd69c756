"""The model file: weights, averaged weights, scaling, and a description that rebuilds the rest.

It is a safetensors file that describes itself: a reader needs no parameters. The description is
sorted JSON in a single metadata entry, `model`. With several entries the bytes of a model would
vary, because safetensors writes them in random order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm.core.errors import UserError
from ddpm.core.files import reading, replacing
from ddpm.core.params import DiffusionSettings, LossSettings, TrainSettings
from ddpm.core.settings import S, Settings, V
from ddpm.data.datasets import DATASETS, Dataset
from ddpm.data.point_file import SOURCES, PointFile
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES, make_schedule
from ddpm.networks.network import Network
from ddpm.networks.registry import NETWORKS

_REMEDY = "train the model again with `dvc repro train`"


class NamedSettings(Settings):
    """The name of an entry in a registry, and its settings as plain values."""

    name: str
    settings: dict[str, Any]

    def resolve(self, kind: str, registry: Mapping[str, type[S]]) -> S:
        """Validate the settings as those of the entry that `name` names.

        Args:
            kind: What the registry holds, such as "network", for the message.
            registry: Settings classes by name.

        Raises:
            ValueError: If there is no such entry, or its settings are invalid.
        """
        return _entry(kind, self.name, registry).model_validate(self.settings)


class ModelDescription(Settings):
    """Everything that determines a trained model, except the code.

    Attributes:
        dataset: Distribution of the training points, or the file that they came from.
        data_sha256: SHA-256 of the file of training points.
        schedule: Noise schedule.
        diffusion: Number of steps, and whether the schedule ends without signal.
        network: Network and its sizes.
        prediction: What the network predicts, a name in PREDICTIONS.
        loss: Settings of the loss.
        train: Settings of the optimisation.
        seed: Seed of the training, and of everything that is later drawn with the model.
        device: Hardware that the model was trained on, because the last bits depend on it.
    """

    dataset: NamedSettings
    data_sha256: str
    schedule: NamedSettings
    diffusion: DiffusionSettings
    network: NamedSettings
    prediction: str
    loss: LossSettings
    train: TrainSettings
    seed: int
    device: str


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and everything needed to sample from it, rebuilt from its file.

    Attributes:
        description: Settings, data and seed that the model was trained with.
        denoiser: The network with the averaged weights, with its prediction type and schedule. If
            it has labels, this is that of the null label; see `given`.
        source: Distribution of the training points, or the file that they came from.
        scaling: Between data units and the model units in which the denoiser computes.
    """

    description: ModelDescription
    denoiser: Denoiser
    source: Dataset | PointFile
    scaling: Scaling

    @property
    def dataset(self) -> Dataset:
        """Distribution of the training points.

        Raises:
            UserError: If it is not known, because they came from a file.
        """
        if isinstance(self.source, PointFile):
            raise UserError(
                f"the model was trained on points of {self.source.path}, whose distribution is not"
                f" known; use a model of one of {', '.join(DATASETS)}"
            )
        return self.source

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that the network has learned; empty if it has none."""
        return learned_classes(self.source, self.description.train)

    def given(self, label: int | None) -> Denoiser:
        """Return the denoiser for one label; None is the null label, all of the data.

        Raises:
            UserError: If the network has no such label.
        """
        network = self.denoiser.function
        assert isinstance(network, Network)
        return replace(self.denoiser, function=network.given(label))

    @property
    def seed(self) -> int:
        """Seed of the training, and of everything that is later drawn with the model."""
        return self.description.seed


def save_model(
    path: Path,
    description: ModelDescription,
    network: nn.Module,
    averaged: nn.Module,
    scaling: Scaling,
) -> None:
    """Write a trained model.

    Args:
        path: File to write. An existing file is replaced only once the new one is complete.
        description: Settings, data and seed that the model was trained with.
        network: The network with the weights of the last step.
        averaged: The network with the averaged weights, which `load_model` returns.
        scaling: Scaling of the training points.

    Raises:
        UserError: If the file cannot be written.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in averaged.state_dict().items()}
    tensors["scaling.mean"] = scaling.mean
    tensors["scaling.scale"] = torch.tensor(scaling.scale, dtype=torch.float64)
    # safetensors refuses tensors that share memory, such as tied weights.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    values = description.model_dump(exclude_none=True)
    metadata = {"model": json.dumps(values, sort_keys=True)}
    content = save(tensors, metadata=metadata)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_model(path: Path | str, device: torch.device | str = "cpu") -> TrainedModel:
    """Read a trained model.

    Args:
        path: File written by `save_model`.
        device: Where to put the network.

    Raises:
        UserError: If the file is missing, truncated, foreign, not finite, or of an earlier format.

    Example:
        >>> model = load_model("models/denoiser.safetensors")
        >>> model.description.prediction
        'v'
    """
    path = Path(path)
    with reading(path, _REMEDY), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "recipe" in metadata:
            raise UserError(f"{path} has the format of an earlier version of ddpm; {_REMEDY}")
        description = ModelDescription.model_validate_json(metadata["model"])
        source = description.dataset.resolve("dataset", SOURCES)
        network = description.network.resolve("network", NETWORKS).build(
            description.diffusion.T, len(learned_classes(source, description.train))
        )
        weights = {name: _finite(file, f"ema.{name}") for name in network.state_dict()}
        network.load_state_dict(weights)
        mean, scale = _finite(file, "scaling.mean"), _finite(file, "scaling.scale")
        if mean.shape != (2,) or scale.shape != () or not scale > 0:
            raise ValueError("its scaling is not a point and a positive number")
        schedule = make_schedule(
            description.schedule.resolve("schedule", SCHEDULES),
            description.diffusion.T,
            zero_terminal_snr=description.diffusion.zero_terminal_snr,
        )
        prediction = _entry("prediction", description.prediction, PREDICTIONS)
    denoiser = Denoiser(network.to(device).eval(), prediction, schedule, torch.float32)
    return TrainedModel(description, denoiser, source, Scaling(mean, float(scale)))


def learned_classes(source: Dataset | PointFile, settings: TrainSettings) -> tuple[str, ...]:
    """Names of the labels that a network is trained with; empty if they are not shown to it."""
    return () if settings.drop_label is None else source.classes


def _entry(kind: str, name: str, registry: Mapping[str, V]) -> V:
    """Look up a name that the file holds. `choose` would advise to change params.yaml."""
    if name not in registry:
        raise ValueError(f"its {kind} is {name!r} but should be one of {', '.join(registry)}")
    return registry[name]


def _finite(file: Any, name: str) -> Tensor:  # noqa: ANN401 - safetensors has no types
    tensor: Tensor = file.get_tensor(name)
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"its {name} holds values that are not finite")
    return tensor
