"""Atomic replacement of files, and one clear line for a file that cannot be read or written."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm.core.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` once the block has succeeded."""
    temporary = path.with_name(f".new.{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn any error while reading `path` into a `UserError`, whose message ends with a remedy."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    except Exception as error:
        # Libraries raise errors of many kinds when they read a damaged file.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"it has no {error}" if isinstance(error, KeyError) else reason
        raise UserError(f"{path} cannot be used ({reason}); {remedy}") from None


def sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
