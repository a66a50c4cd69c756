"""Checks signatures at run time; an int will do where a float is wanted, as in all of Python."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextmanager
def unchecked() -> Iterator[None]:
    """Leave shapes unchecked, in a `with` block or in a decorated test.

    For tests with many thousand calls, of which the checks would take more than half of the time. The
    same functions are called with checks in other tests.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
