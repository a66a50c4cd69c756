"""Devices, random streams, threads, and functions whose bits are the same on every processor."""

import hashlib
import math
import os
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.core.errors import UserError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

_AVAILABLE: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}

# Whether this thread computes an item of `in_parallel`.
_this_thread = threading.local()

A = TypeVar("A")
B = TypeVar("B")


def resolve_device(name: str) -> torch.device:
    """Look up a device by name; `auto` is the first available of CUDA, MPS and CPU.

    Raises:
        UserError: If the name is unknown or this machine has no such device.
    """
    available = [device for device, is_available in _AVAILABLE.items() if is_available()]
    chosen = available[0] if name == "auto" else name
    if chosen not in available:
        raise UserError(
            f"device is {name!r} but on this machine should be one of"
            f" {', '.join(('auto', *available))}; change device in params.yaml"
        )
    return torch.device(chosen)


def device_name(device: torch.device) -> str:
    """Name of the hardware that results depend on: the CUDA card, otherwise the type of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def sqrt(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Square root, correctly rounded on the CPU.

    `torch.sqrt` calls MKL there, whose last bit depends on the processor even if MKL_CBWR is set.
    """
    if x.device.type != "cpu":
        return x.sqrt()
    return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))


def log(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Natural logarithm. `torch.log` calls MKL, whose last bit depends on the processor."""
    return torch.log2(x) * math.log(2)


def matmul(x: Float[Tensor, "*batch n"], y: Float[Tensor, "n m"]) -> Float[Tensor, "*batch m"]:
    """Matrix product; to be called under `torch.no_grad()`.

    On one thread of the CPU it is NumPy's, whose bits can be pinned at less cost than those of MKL,
    which torch calls: with MKL_CBWR=COMPATIBLE, MKL is three times slower. Several threads are left
    to torch, since those of NumPy would compete with them.
    """
    product: Tensor
    if x.device.type != "cpu" or torch.get_num_threads() > 1:
        product = x @ y
    else:
        rows = torch.from_numpy(x.flatten(0, -2).numpy() @ y.detach().numpy())
        product = rows.unflatten(0, x.shape[:-1])
    return product


def distances(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
    """Euclidean distance from each x to each y.

    Computed from differences: the faster matrix product loses digits where points are close.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Create the random stream for one purpose, from the seed and the name of the purpose.

    The same seed and name give the same numbers again, and adding a stream changes no other stream.

    Example:
        >>> first, again = stream(0, "noise"), stream(0, "noise")
        >>> bool((torch.rand(3, generator=first) == torch.rand(3, generator=again)).all())
        True
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sobol_normal(n: int, seed: int) -> Float64[Tensor, "n 2"]:
    """Scrambled Sobol points, mapped to N(0, I).

    Means over them have less error than over random points, the least if n is a power of two.
    """
    uniform = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(
        n, dtype=torch.float64
    )
    # `torch.special.erfinv` calls MKL, whose last bit depends on the processor.
    quantile = statistics.NormalDist().inv_cdf
    normal = [quantile(u) for u in uniform.clamp(1e-12, 1 - 1e-12).flatten().tolist()]
    return torch.tensor(normal, dtype=torch.float64).view(n, 2)


def in_parallel(
    function: Callable[[A], B], items: Iterable[A], device: torch.device | None = None
) -> list[B]:
    """Compute `[function(item) for item in items]`, with the items shared among threads.

    Each item is computed by one thread and the results are in the order of the items, so the number
    of threads changes no bit. On an accelerator, and inside of another item, the items are computed
    one after the other.

    Threads help because torch releases the interpreter's lock while it computes. It takes the lock
    again after each operation and may have to wait for it, so an item should consist of operations
    on thousands of points: with 500 points, two threads were no faster than one.
    """
    items = list(items)
    workers = _workers() if device is None or device.type == "cpu" else 1
    if min(workers, len(items)) <= 1 or getattr(_this_thread, "is_worker", False):
        return [function(item) for item in items]
    with one_thread_for_matrices(), ThreadPoolExecutor(workers, initializer=_mark_worker) as pool:
        return list(pool.map(function, items))


def _mark_worker() -> None:
    _this_thread.is_worker = True


def ahead(items: Iterator[A], device: torch.device) -> Iterator[A]:
    """Iterate over the items, and compute the next one on a second thread meanwhile.

    Without a free core, and on an accelerator, each item is computed when it is asked for.
    """
    if device.type != "cpu" or _workers() < 2:
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item


def one_thread_for_matrices() -> AbstractContextManager[object]:
    """Multiply matrices on one thread, in NumPy and in torch, inside of a `with` statement.

    Threads that share small matrices mostly wait for one another.
    """
    limits: AbstractContextManager[object] = _thread_pools().limit(limits=1, user_api="blas")
    return limits


@cache
def _thread_pools() -> "ThreadpoolController":
    # Not at the top: importing it sets an environment variable. Kept, because it searches all
    # loaded libraries; those that are loaded later are not limited.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _workers() -> int:
    """Number of threads that, each with torch's own threads, occupy every core once.

    Threads of torch wait for one another by spinning. When they outnumber the cores, this is slow:
    two processes of two threads each were 10 to 30 times slower on two cores.
    """
    return max(1, cores() // torch.get_num_threads())


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
