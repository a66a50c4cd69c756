"""The sampler that params.yaml names."""

from ddpm.core.params import Params, PointsParams
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.sampler import Sampler
from ddpm.sampling.spacings import require_terminal_signal
from stages.common.params import select


def sampler_of(
    params: Params | PointsParams, schedule: Schedule, name: str | None = None
) -> Sampler:
    """Build the sampler, or another one with its settings in params.yaml.

    Raises:
        UserError: If its name or its settings are not allowed, or if it does not work on the
            schedule.
    """
    name = params.sampler if name is None else name
    sampler = select(params, "sampler", SAMPLERS, name)
    if sampler.uses_log_snr:
        require_terminal_signal(schedule, f"sampler {name}")
    return sampler
