"""Where and how the numbers are computed: device, random streams, work shared by blocks."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.errors import UserError

_AVAILABLE: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}
DEVICES = ("auto", *_AVAILABLE)

A = TypeVar("A")
B = TypeVar("B")


def resolve_device(name: str) -> torch.device:
    """The device to compute on; `auto` takes the first that is there of CUDA, MPS and CPU.

    Raises:
        UserError: If the name is unknown or this machine has no such device.
    """
    present = [device for device, available in _AVAILABLE.items() if available()]
    chosen = present[0] if name == "auto" else name
    if chosen not in present:
        raise UserError(
            f"device is {name!r} but of {', '.join(DEVICES)} this machine offers"
            f" {', '.join(('auto', *present))}; change device in params.yaml"
        )
    if chosen != "cpu":
        torch.use_deterministic_algorithms(True)
    return torch.device(chosen)


def device_name(device: torch.device) -> str:
    """What computes: CUDA's results depend on the card, the CPU's on none (see `ddpm`)."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def sqrt(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Correctly rounded square root, on the CPU.

    torch.sqrt takes MKL's, whose last bit depends on the processor even where MKL_CBWR is set.
    """
    return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))


def log(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Natural logarithm; torch.log takes MKL's, whose last bit depends on the processor."""
    return torch.log2(x) * math.log(2)


def distances(x: Float[Tensor, "n 2"], y: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
    """Distance from each x to each y, not through a matrix product, which would lose digits."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The random stream of one purpose: a function of the seed and the purpose's name alone.

    Adding a stream changes no other; the same seed and name give the same numbers again.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def in_parallel(
    function: Callable[[A], B], items: Iterable[A], device: torch.device | None = None
) -> list[B]:
    """`[function(item) for item in items]`, shared by as many threads as there are cores.

    Each item is computed by one thread and the results keep their order, so the number of cores
    changes no bit. torch releases the interpreter while it computes. An accelerator is one worker.
    """
    items = list(items)
    workers = cores() if device is None or device.type == "cpu" else 1
    if min(workers, len(items)) <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
