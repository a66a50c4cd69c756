"""Train the denoiser."""

import torch

from ddpm.datasets import Scaling
from ddpm.denoiser import ResidualMLP
from ddpm.files import read_points, write_csv
from ddpm.model_file import recipe_of, save_model
from ddpm.params import choose, load
from ddpm.process import PREDICTIONS
from ddpm.runtime import resolve_device, stream
from ddpm.schedules import schedule_of
from ddpm.training import Record, Task, train
from stages.common import MODEL, TEST, TRAIN, TRAINING_CSV, run


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
    print(f"training on {device}")

    averaged, records = train(
        network.to(device),
        task,
        scaling.to_model(points).to(device),
        scaling.to_model(test_points).to(device),
        settings=params.train,
        seed=params.seed,
    )

    columns = zip(*records, strict=True)
    write_csv(TRAINING_CSV, dict(zip(Record._fields, columns, strict=True)))
    save_model(MODEL, network, averaged, scaling, recipe_of(params, TRAIN))


if __name__ == "__main__":
    run(main)
