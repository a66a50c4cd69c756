"""The results of a study, in a JSON file to which each cell is added when it has been measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.seeds import leaves
from ddpm.core.errors import UserError
from ddpm.core.files import reading
from ddpm.core.params import Params
from stages.common.files import write_json
from stages.common.outputs import completing

# What determines a trained network, apart from the seed and what a study varies.
_DETERMINE = {
    *("dataset", "datasets", "data", "diffusion", "network", "networks", "loss", "train"),
    *("schedule", "schedules", "prediction"),
}


def training_settings(params: Params, varied: set[str]) -> dict[str, Any]:
    """The parameters that determine a network, without those that a study varies."""
    return params.model_dump(include=_DETERMINE - varied)


@dataclass(frozen=True)
class Results:
    """The cells that have been measured, and the settings that they have in common.

    Attributes:
        path: The file.
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
        with reading(path, "make it with `make study`"):
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, values["settings"], values["cells"])

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a cell, and write the file."""
        self.cells[name] = values
        with completing():
            write_json(self.path, {"settings": self.settings, "cells": self.cells})
