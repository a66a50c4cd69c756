"""The pipeline in a folder of its own, at other parameters."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

# Every size as small as it can be while every stage still does all that it does.
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


def copy_code(folder: Path) -> None:
    """Copy what the stages run, without what git ignores."""
    for package in ("ddpm", "stages"):
        shutil.copytree(package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def write_changed_params(folder: Path, changes: Mapping[str, object]) -> None:
    """Write the present params.yaml, with dotted changes, to a folder."""
    yaml = YAML()
    values = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(changed(values, **changes), file)


def changed(values: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Set dotted parameters, such as `**{"train.lr": 1}`; None removes one."""
    for name, value in changes.items():
        *sections, last = name.split(".")
        target = values
        for section in sections:
            target = target[section]
        if value is None:
            del target[last]
        else:
            target[last] = copy.deepcopy(value)
    return values
