"""The device that params.yaml names, with deterministic algorithms."""

import torch

from ddpm.core.compute import resolve_device
from ddpm.core.params import TrainingParams


def device_of(params: TrainingParams) -> torch.device:
    """Find the device; on an accelerator, ask torch for deterministic algorithms.

    Raises:
        UserError: If this machine has no such device.
    """
    device = resolve_device(params.device)
    # `torch.use_deterministic_algorithms` does the same, but first takes a second to import what
    # compiles networks.
    torch.set_deterministic_debug_mode("default" if device.type == "cpu" else "error")
    return device
