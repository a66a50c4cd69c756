"""Which code NumPy's matrix products run, on which the last bits of a trained model depend."""

import os

import numpy as np  # noqa: F401 - loads the library that is asked
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]


def note_other_kernels() -> None:
    """Print a line if NumPy's BLAS did not choose the code that `stages` asked it for.

    OpenBLAS ignores the variable, without a word, if it does not know the name or is loaded before.
    """
    wanted = os.environ.get("OPENBLAS_CORETYPE")
    libraries = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
    used = " and ".join(sorted({library["architecture"] for library in libraries}))
    if wanted is not None and used != wanted:
        print(
            f"note: NumPy multiplies matrices with {used or 'another library'} and not with"
            f" OpenBLAS's code for {wanted}, so the last bits of the model may differ"
        )
