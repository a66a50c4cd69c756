"""What `make repro` looks at before dvc: params.yaml, and what a killed dvc has left half-written.

dvc writes dvc.lock and .dvc/tmp/rwlock in place, so that a kill in that moment leaves half a file,
at which every later `dvc repro` stops. Here it is set aside: DVC's run cache still knows all that
was recorded, and brings it back without running it again.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from dvc.schema import COMPILED_LOCKFILE_SCHEMA  # type: ignore[import-untyped]
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from ddpm.params import load
from stages.common import reporting

_WRITTEN_IN_PLACE: dict[Path, Callable[[str], object]] = {
    Path("dvc.lock"): lambda text: COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(text)),
    Path(".dvc/tmp/rwlock"): json.loads,
}
# Another dvc may be writing just now.
_LOOKS, _BETWEEN = 4, 0.5


def main() -> None:
    """Refuse parameters that are not allowed, and set aside what is half-written."""
    load()
    for path, read in _WRITTEN_IN_PLACE.items():
        if path.exists() and not _whole(path, read):
            aside = path.with_name(f"{path.name}.broken")
            path.replace(aside)
            print(f"note: {path} was half-written and is now {aside}; dvc makes it anew")


def _whole(path: Path, read: Callable[[str], object]) -> bool:
    for look in range(_LOOKS):
        time.sleep(_BETWEEN if look else 0)
        try:
            read(path.read_text(encoding="utf-8"))
        except (YAMLError, Invalid, ValueError):
            continue
        return True
    return False


if __name__ == "__main__":
    with reporting():
        main()
