"""The pipeline in a folder of its own, at other parameters."""

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ddpm.core.settings import PARAMS_FILE
from stages.common.yaml_loader import load_yaml

# Every size is as small as possible while every stage still does all of its work.
SIZES: dict[str, Any] = {
    "device": "cpu",
    "data.n_train": 300,
    "data.n_test": 200,
    "diffusion.T": 30,
    "networks.mlp.width": 16,
    "networks.mlp.blocks": 1,
    "networks.mlp.fourier_features": 8,
    "networks.mlp.time_features": 4,
    "loss.neighbours": 16,
    "train.steps": 40,
    "train.batch": 32,
    "train.warmup": 5,
    "train.log_every": 20,
    "sample.n": 250,
    "sample.steps": 30,
    "sample.block": 100,
    "sample.trajectories": 120,
    "sample.frames": 6,
    "measure_samples.n": 200,
    "measure_samples.null_pairs": 3,
    "measure_samples.directions": 8,
    "measure_model.n_denoising": 40,
    "measure_model.n_likelihood": 60,
    "measure_model.n_exact": 20,
    "measure_model.n_memory": 20,
    "measure_model.tolerance": 1e-3,
    "measure_model.density_grid": 12,
    "optimise_spacings.steps": "3 4",
    "optimise_spacings.n": 20,
    "optimise_spacings.tolerance": 1e-3,
    "optimise_spacings.iterations": 2,
    "compare_samplers.n": 40,
    "compare_samplers.n_density": 30,
    "compare_samplers.cells": {
        "ddpm/trailing": 5,
        "heun/karras": "5 9",
        "dpmpp_2m/trailing": "3 4 5",
        "unipc/optimised_truth": "3 4",
        "unipc/optimised_model": 3,
        "ode/trailing": 1,
    },
    "attribute_error.n": 100,
    "attribute_error.tolerance": 1e-2,
}


def copy_code(folder: Path) -> None:
    """Copy what the stages run, without what git ignores."""
    for package in ("ddpm", "stages"):
        shutil.copytree(package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def write_changed_params(folder: Path, changes: Mapping[str, object]) -> None:
    """Write the present params.yaml, with dotted changes, to a folder."""
    text = yaml.safe_dump(changed(present_params(), **changes), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def present_params() -> dict[str, Any]:
    """The present params.yaml, as plain values."""
    values = load_yaml(Path(PARAMS_FILE).read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


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
