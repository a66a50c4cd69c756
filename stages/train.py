"""Train the denoiser."""

import torch

from ddpm.checkpoint import Checkpoint
from ddpm.datasets import Scaling
from ddpm.denoiser import ResidualMLP
from ddpm.files import afterwards, read_points, sha256, write_csv
from ddpm.model_file import recipe_of, save_model
from ddpm.params import choose, load
from ddpm.process import PREDICTIONS
from ddpm.runtime import device_name, resolve_device, stream
from ddpm.schedules import schedule_of
from ddpm.training import Record, Task, train
from stages import CODE
from stages.common import CHECKPOINTS, MODEL, TEST, TRAIN, TRAINING_CSV, run


def main() -> None:
    """Write the model and the training curve."""
    params = load()
    device = resolve_device(params.device)
    task = Task(schedule_of(params), choose("prediction", params.prediction, PREDICTIONS))
    points = torch.from_numpy(read_points(TRAIN, stage="generate", n=params.data.n_train))
    test_points = torch.from_numpy(read_points(TEST, stage="generate", n=params.data.n_test))
    scaling = Scaling.of(points)
    network = ResidualMLP(params.model, task.schedule.T)
    network.initialise(generator=stream(params.seed, "train/initialise"))
    recipe = recipe_of(params, TRAIN)
    checkpoint = Checkpoint.of(
        CHECKPOINTS,
        "train",
        {
            "code": CODE,
            "device": device_name(device),
            "recipe": recipe,
            "test_points": sha256(TEST, stage="generate"),
            "torch": torch.__version__,
        },
    )
    print(f"training on {device}")

    averaged, records = train(
        network.to(device),
        task,
        scaling.to_model(points).to(device),
        scaling.to_model(test_points).to(device),
        settings=params.train,
        seed=params.seed,
        checkpoint=checkpoint,
    )

    columns = zip(*records, strict=True)
    write_csv(TRAINING_CSV, dict(zip(Record._fields, columns, strict=True)))
    save_model(MODEL, network, averaged, scaling, recipe)
    afterwards(checkpoint.remove)


if __name__ == "__main__":
    run(main)
