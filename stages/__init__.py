"""The stages of the pipeline: thin scripts, run as `python -m stages.NAME` from its folder.

Importing this package pins the arithmetic, before torch and NumPy load and read these variables.
The same bits then come out of x86-64 processors of both vendors, with AVX2 or AVX-512, and with any
number of cores. One OpenMP thread for each process also prevents experiments that run side by side
from slowing one another down; work is shared among threads by `ddpm.core.compute.in_parallel`.
"""

import hashlib
import os
import platform
import sys
import warnings
from pathlib import Path

_PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # cuBLAS is deterministic only with a fixed workspace.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
_PINNED_X86 = {
    # NumPy's OpenBLAS otherwise chooses by processor; these are its AVX2 kernels.
    "OPENBLAS_CORETYPE": "Haswell",
    # MKL chooses its code by vendor unless told; only this mode was the same on Intel and AMD.
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
    # NumPy's exp and log differ between AVX2 and AVX-512.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def _pin_arithmetic() -> None:
    pinned = dict(_PINNED)
    if platform.machine() in {"x86_64", "AMD64"}:
        pinned |= _PINNED_X86
    loaded = [name for name in ("numpy", "torch") if name in sys.modules]
    if loaded and any(os.environ.get(name) != pinned[name] for name in pinned):
        warnings.warn(
            f"{loaded[0]} was imported before stages, so its arithmetic is not pinned: the last"
            " bits of all results may differ; import stages first",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ.update(pinned)
    # NumPy refuses to load if features are both enabled and disabled.
    os.environ.pop("NPY_ENABLE_CPU_FEATURES", None)


def source_files(folder: Path) -> list[Path]:
    """Source files below a folder, without the hidden ones that editors leave (see .dvcignore)."""
    files = sorted(folder.rglob("*.py"))
    hidden = (path.relative_to(folder).parts for path in files)
    return [
        path
        for path, parts in zip(files, hidden, strict=True)
        if path.is_file() and not any(part.startswith(".") for part in parts)
    ]


def _hash_code() -> dict[Path, str]:
    root = Path(__file__).resolve().parents[1]
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for package in ("ddpm", "stages")
        for path in source_files(root / package)
    }


_pin_arithmetic()
# Hash of every source file by its path. It is taken before the code is imported, because what is
# edited later is not what runs.
CODE = _hash_code()
