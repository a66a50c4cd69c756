"""Train the denoiser."""

from pathlib import Path

import torch
from torch import Tensor

from ddpm.core.compute import device_name, stream
from ddpm.core.files import sha256
from ddpm.core.params import TrainingParams
from ddpm.core.settings import Settings
from ddpm.data.scaling import Scaling
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.networks.model_file import ModelDescription, NamedSettings, save_model
from ddpm.networks.registry import NETWORKS
from ddpm.training.checkpoint import Checkpoint
from ddpm.training.loop import train
from ddpm.training.progress import Record
from stages import CODE
from stages.common.dataset import source_of
from stages.common.device import device_of
from stages.common.files import read_labels, read_points
from stages.common.matrix_products import note_other_kernels
from stages.common.outputs import pending
from stages.common.params import load_params, select
from stages.common.paths import CHECKPOINTS, MODEL, TEST, TRAIN, TRAINING_CSV
from stages.common.run import run
from stages.common.schedule import refuse_eps_without_signal
from stages.common.tables import write_table
from stages.common.task import task_of


def main() -> None:
    """Write the model and the training curve."""
    records = train_model(load_params(kind=TrainingParams), MODEL)
    columns = zip(*records, strict=True)
    write_table(TRAINING_CSV, dict(zip(Record._fields, columns, strict=True)))


def train_model(params: TrainingParams, model: Path) -> list[Record]:
    """Train on the generated points, and write a model; returns the training curve."""
    device = device_of(params)
    refuse_eps_without_signal(params)
    task = task_of(params)
    stage = _source_of_points(params, task.labels is not None)
    points = torch.from_numpy(read_points(TRAIN, stage=stage, n=params.data.n_train))
    test_points = torch.from_numpy(read_points(TEST, stage=stage, n=params.data.n_test))
    classes = task.labels.classes if task.labels else 0
    labels, test_labels = (
        _labels(path, stage, n, classes)
        for path, n in ((TRAIN, len(points)), (TEST, len(test_points)))
    )
    scaling = Scaling.from_points(points)
    network_settings = select(params, "network", NETWORKS)
    generator = stream(params.seed, "train/initialise")
    network = network_settings.create(task.schedule.T, classes, generator=generator)
    description = ModelDescription(
        dataset=_named(params.dataset, source_of(params)),
        data_sha256=sha256(TRAIN),
        schedule=_named(params.schedule, select(params, "schedule", SCHEDULES)),
        diffusion=params.diffusion,
        network=_named(params.network, network_settings),
        prediction=params.prediction,
        loss=params.loss,
        train=params.train,
        seed=params.seed,
        device=device_name(device),
    )
    checkpoint = Checkpoint.of(
        CHECKPOINTS,
        {
            "code": sorted(CODE.values()),
            "model": description.model_dump(),
            "test_points": sha256(TEST),
            "torch": torch.__version__,
        },
    )
    print(f"training on {device}")
    if device.type == "cpu":
        note_other_kernels()

    averaged, records = train(
        network.to(device),
        task,
        scaling.to_model(points).to(device),
        scaling.to_model(test_points).to(device),
        settings=params.train,
        seed=params.seed,
        checkpoint=checkpoint,
        labels=labels,
        test_labels=test_labels,
    )

    with pending(model) as path:
        save_model(path, description, network, averaged, scaling)
    checkpoint.remove()
    return records


def _source_of_points(params: TrainingParams, labelled: bool) -> str:
    """The stage that makes the points."""
    if params.dataset == "file":
        return "generate_points"
    return "generate_labelled" if labelled else "generate"


def _labels(points: Path, stage: str, n: int, classes: int) -> Tensor | None:
    """Labels of the points of a file, if labels are used."""
    if not classes:
        return None
    return torch.from_numpy(read_labels(points, stage=stage, n=n, classes=classes))


def _named(name: str, settings: Settings) -> NamedSettings:
    return NamedSettings(name=name, settings=settings.model_dump())


if __name__ == "__main__":
    run(main)
