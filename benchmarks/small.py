"""The pipeline at small sizes: every stage does all that it does, in seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SIZES: dict[str, Any] = {
    "data.n_train": 300,
    "data.n_test": 200,
    "diffusion.T": 30,
    "model.width": 16,
    "model.blocks": 1,
    "model.fourier_features": 8,
    "model.time_features": 4,
    "train.steps": 40,
    "train.batch": 32,
    "train.warmup": 5,
    "train.log_every": 20,
    "sample.n": 250,
    "sample.steps": 30,
    "sample.block": 100,
    "sample.trajectories": 120,
    "sample.frames": 6,
    "evaluate.null_pairs": 3,
    "evaluate.directions": 8,
    "evaluate.n_denoising": 40,
    "evaluate.n_likelihood": 60,
    "evaluate.n_exact": 20,
    "evaluate.n_memory": 20,
    "evaluate.tolerance": 1e-3,
    "evaluate.density_grid": 12,
    "optimise.steps": "3 4",
    "optimise.n": 20,
    "optimise.tolerance": 1e-3,
    "compare.n": 40,
    "compare.cells": {
        "ddpm/trailing": 5,
        "heun/karras": "5 9",
        "dpmpp_2m/trailing": "3 4 5",
        "unipc/optimised_truth": "3 4",
        "unipc/optimised_model": 3,
        "ode/trailing": 1,
    },
    "attribute.n": 100,
    "attribute.tolerance": 1e-2,
}


def write_small_params(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    """Write the present params.yaml at small sizes to a folder, with further dotted changes."""
    yaml = YAML()
    values = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    for name, value in (SIZES | dict(changes or {})).items():
        *sections, last = name.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[last] = value
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
