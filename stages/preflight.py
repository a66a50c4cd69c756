"""What `make repro` checks before it starts dvc: params.yaml, and files that a kill has cut off.

dvc writes these in place, and stops at half a file; DVC's run cache restores what it recorded.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
from voluptuous import Invalid

from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams, TrainingParams
from stages.common.params import load_params
from stages.common.run import reporting
from stages.common.yaml_loader import load_yaml

_PARSERS: dict[Path, Callable[[str], object]] = {
    Path("dvc.lock"): lambda text: COMPILED_LOCKFILE_SCHEMA(load_yaml(text)),
    Path(".dvc/tmp/rwlock"): json.loads,
}


def main() -> None:
    """Refuse parameters that are not allowed, and move aside what is cut off."""
    params = load_params(kind=TrainingParams)
    # dvc would only say that it does not exist.
    if isinstance(params, PointsParams) and "file" in params.datasets:
        path = params.datasets["file"].get("path")
        if not Path(str(path)).exists():
            raise UserError(f"{path} is missing; change datasets.file.path in params.yaml")
    for path, parse in _PARSERS.items():
        if path.exists() and not _is_complete(path, parse):
            aside = path.replace(path.with_name(f"{path.name}.broken"))
            print(f"note: {path} was cut off and is now {aside}; dvc writes it anew")


def _is_complete(path: Path, parse: Callable[[str], object]) -> bool:
    # Another dvc may be writing at this very moment, so look several times.
    for seconds in (0, 0.5, 1):
        time.sleep(seconds)
        try:
            parse(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, Invalid, ValueError):
            continue
        return True
    return False


if __name__ == "__main__":
    with reporting():
        main()
