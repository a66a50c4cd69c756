"""Denoising diffusion of points in the plane, measured against the exact truth.

Importing this package pins the arithmetic, before torch and NumPy load and read these variables:
the same bits then come out of x86-64 processors of both vendors, with AVX2 or AVX-512, and with any
number of cores. One OpenMP thread per process also keeps experiments that run side by side from
spinning on each other; where work can be shared it is cut into blocks, see `runtime.in_parallel`.
"""

import os
import platform
import sys
import warnings

_PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # cuBLAS is deterministic only with a fixed workspace.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
_PINNED_X86 = {
    # MKL picks its code by vendor unless told; only this mode was the same on Intel and AMD.
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
    # NumPy's exp and log differ between AVX2 and AVX-512.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def _pin() -> None:
    pinned = dict(_PINNED)
    if platform.machine() in {"x86_64", "AMD64"}:
        pinned |= _PINNED_X86
    if "torch" in sys.modules and any(os.environ.get(name) != pinned[name] for name in pinned):
        warnings.warn(
            "torch was imported before ddpm, so its arithmetic is not pinned: the last bits of all"
            " results may differ; import ddpm first",
            RuntimeWarning,
            stacklevel=3,
        )
    os.environ.update(pinned)
    # NumPy refuses to load with both.
    os.environ.pop("NPY_ENABLE_CPU_FEATURES", None)


_pin()
