"""Measure a model of a file, and its samples, against the test points, and draw them."""

from pathlib import Path
from typing import Any

import torch

from ddpm.core.params import PointsParams
from ddpm.networks.model_file import TrainedModel, load_model
from ddpm.plots.points import Cloud, points_and_density
from ddpm.plots.style import MODEL as MODEL_COLOR
from ddpm.plots.style import TRUTH, save
from ddpm.studies.held_out import (
    Labelled,
    held_out_distances,
    held_out_likelihood,
    model_density,
)
from stages.common.files import (
    read_labels,
    read_points,
    refuse_other_points,
    write_arrays,
    write_json,
)
from stages.common.outputs import pending
from stages.common.params import load_params
from stages.common.paths import DENSITY, METRICS, MODEL, REPORTS, SAMPLES, TEST, TRAIN
from stages.common.run import run

# How far the picture of the density goes beyond the outermost test point, and its tolerance.
_BEYOND, _DENSITY_TOLERANCE = 1.15, 1e-3


def main() -> None:
    """Write the metrics, the density of the model on a grid, and a figure."""
    settings = load_params(kind=PointsParams).measure_points
    model = load_model(MODEL)
    refuse_other_points(model.description.data_sha256, MODEL, TRAIN)
    classes = model.classes
    train, test, samples = (
        _read(path, stage, model)
        for path, stage in (
            (TRAIN, "generate_points"),
            (TEST, "generate_points"),
            (SAMPLES, "sample_points"),
        )
    )
    metrics: dict[str, Any] = {
        "likelihood": held_out_likelihood(
            model, train, test, n=settings.n_likelihood, tolerance=settings.tolerance
        ),
        "samples": held_out_distances(samples.points, test.points, settings, seed=model.seed),
    }
    by_class = {}
    for label, name in enumerate(classes):
        mine, true = (points.points[points.labels == label] for points in (samples, test))
        # A distance within a set needs two points.
        if min(len(mine), len(true)) > 1:
            by_class[name] = held_out_distances(
                mine, true, settings, seed=model.seed, names=["energy_distance"]
            )
    reach = _BEYOND * float(model.scaling.to_model(test.points).abs().max())
    density = model_density(
        model, reach=reach, grid=settings.density_grid, tolerance=_DENSITY_TOLERANCE
    )
    write_json(METRICS, metrics | ({"classes": by_class} if by_class else {}))
    write_arrays(DENSITY, {name: part.numpy() for name, part in density._asdict().items()})
    n = len(test.points)
    figure = points_and_density(
        Cloud("held-out points", test.points.numpy(), test.labels.numpy(), TRUTH),
        Cloud("samples", samples.points[:n].numpy(), samples.labels[:n].numpy(), MODEL_COLOR),
        classes,
        *(part.numpy() for part in density),
        caption=_caption(metrics),
    )
    with pending(REPORTS / "points.png") as path:
        save(figure, path)


def _caption(metrics: dict[str, Any]) -> str:
    energy, gap = metrics["samples"]["energy_distance"], metrics["likelihood"]["gap"]
    return (
        f"energy distance {energy.value:.5f} ± {energy.se:.5f} (held-out sets: {energy.floor:.5f});"
        f"  held-out points are {gap.value:.3f} ± {gap.se:.3f} nats less likely than training ones"
    )


def _read(path: Path, stage: str, model: TrainedModel) -> Labelled:
    """Points, and their labels if the network has learned them."""
    points = torch.from_numpy(read_points(path, stage=stage)).double()
    classes = max(1, len(model.source.classes))
    labels = torch.from_numpy(read_labels(path, stage=stage, n=len(points), classes=classes))
    return Labelled(points, labels if model.classes else torch.zeros_like(labels))


if __name__ == "__main__":
    run(main)
