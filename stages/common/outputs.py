"""The outputs of a stage: they appear together at its end, or not at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm.core.files import writing

# Where each output is written while the stage runs.
_pending: dict[Path, Path] = {}


@contextmanager
def pending(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; `completing` moves the file to `path` at the end."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _pending[path] = path.with_name(f".new.{path.name}")
        yield _pending[path]


@contextmanager
def completing(check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Move all pending outputs into place at the end of the block, unless it or `check` fails."""
    _pending.clear()
    try:
        yield
        check()
        for path, temporary in _pending.items():
            with writing(path):
                temporary.replace(path)
    finally:
        for temporary in _pending.values():
            temporary.unlink(missing_ok=True)
