"""What the studies share: results that grow cell by cell, a command line, a model, a divergence."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from benchmarks.seeds import leaves
from ddpm.core.errors import UserError
from ddpm.core.files import reading
from ddpm.core.params import Params
from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.model_under_test import ModelUnderTest, load_model_under_test
from stages import generate, generate_labelled, train
from stages.common.files import write_json
from stages.common.outputs import completing

S = TypeVar("S")
# What determines a trained network, apart from the seed and what a study varies.
_DETERMINE = {
    *("dataset", "datasets", "data", "diffusion", "network", "networks", "loss", "train"),
    *("schedule", "schedules", "prediction"),
}


def training_settings(params: Params, varied: set[str]) -> dict[str, Any]:
    """The parameters that determine a network, without those that a study varies."""
    return selected(params, params.model_dump(include=_DETERMINE - varied))


def selected(params: Params, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the data sets that are not used, so that a new one changes no study."""
    if "datasets" in values:
        values["datasets"] = {params.dataset: values["datasets"][params.dataset]}
    return values


@dataclass(frozen=True)
class Results:
    """The cells that have been measured, and the settings that they have in common.

    Attributes:
        path: The file, with the name of the module that makes it.
        settings: Parameters and sizes of the measurement, by section.
        cells: What was measured, by the name of the cell.
    """

    path: Path
    settings: Mapping[str, Any]
    cells: dict[str, Any]

    @classmethod
    def resume(cls, path: Path, settings: Mapping[str, Any]) -> "Results":
        """Read the cells of an earlier run, if there are any.

        Raises:
            UserError: If they were measured with other settings.
        """
        if not path.exists():
            return cls(path, settings, {})
        earlier = cls.read(path)
        before, now = dict(leaves(earlier.settings, "")), dict(leaves(settings, ""))
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{path} was measured with {name} = {before.get(name)}, which is now"
                    f" {now.get(name)}; remove the file to measure all of it again"
                )
        return earlier

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read a file, whatever the settings are now.

        Raises:
            UserError: If it is missing or damaged.
        """
        with reading(path, f"make it with `python -m benchmarks.{path.stem}`"):
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, values["settings"], values["cells"])

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a cell, and write the file."""
        self.cells[name] = values
        with completing():
            write_json(self.path, {"settings": self.settings, "cells": self.cells})


def train_seed(params: Params, folder: Path) -> ModelUnderTest:
    """Make data and model of a seed in a folder, by the pipeline's own stages."""
    model = folder / "model.safetensors"
    places = {
        "load_params": lambda **_: params,
        "TRAIN": folder / "train.npy",
        "TEST": folder / "test.npy",
    }
    results = {"MODEL": model, "TRAINING_CSV": folder / "training.csv", "CHECKPOINTS": folder}
    # Labels are stored where the network gets them.
    source = generate if params.train.drop_label is None else generate_labelled
    with patch.multiple(source, **places), patch.multiple(train, **places, **results):
        for stage in (source, train):
            with completing():
                stage.main()
    return load_model_under_test(model)


def divergence(model: ModelUnderTest, n: int, tolerance: float) -> Mean:
    """KL(truth || model) in nats, on n true points."""
    x_t = model.noised(model.fresh(n, "study/kl"), model.t, "study/kl")
    values = log_likelihood(model.denoiser, x_t, model.t, tolerance=tolerance)
    return mean_of(model.exact.log_density(x_t, model.t) - values)


def run_study(
    doc: str | None,
    full: S,
    trial: S,
    measure: Callable[[S], list[str] | None],
    present: Callable[[S], None],
) -> None:
    """Measure what is missing of a study, and present it, as the command line asks for.

    Args:
        doc: The docstring of the study, whose first line describes it.
        full: The study.
        trial: A small one, with results of its own.
        measure: Measures what is missing; it may return the names of experiments that failed.
        present: Prints and draws the results.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--trial", action="store_true", help="small, into checkpoints/")
    arguments = parser.parse_args()
    study = trial if arguments.trial else full
    try:
        failed = None if arguments.table else measure(study)
        present(study)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    if failed:
        sys.exit(f"error: {len(failed)} experiments failed; the same command tries them again")
