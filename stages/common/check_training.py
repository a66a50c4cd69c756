"""Validation of the parameters that every pipeline has."""

from ddpm.core.compute import resolve_device
from ddpm.core.params import TrainingParams
from ddpm.core.settings import choose, validate_sections
from ddpm.data.point_file import SOURCES
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.networks.registry import NETWORKS
from stages.common.dataset import source_of
from stages.common.params import select
from stages.common.schedule import refuse_eps_without_signal
from stages.common.task import task_of

# Below this sqrt(alpha_bar_T), as with cosine and sigmoid, sampling with eps is inaccurate.
_LITTLE_SIGNAL = 1e-3


def check_training(params: TrainingParams) -> Schedule:
    """Validate names and sections, and return the schedule.

    Raises:
        UserError: If a parameter is not allowed.
    """
    validate_sections("datasets", params.datasets, SOURCES)
    validate_sections("schedules", params.schedules, SCHEDULES)
    validate_sections("networks", params.networks, NETWORKS)
    source_of(params)
    select(params, "network", NETWORKS)
    choose("prediction", params.prediction, PREDICTIONS)
    schedule = task_of(params).schedule
    refuse_eps_without_signal(params)
    resolve_device(params.device)
    a, _ = schedule.levels(schedule.T)
    if params.prediction == "eps" and a < _LITTLE_SIGNAL:
        print(
            "note: with prediction eps, x0_hat at T is the network's error over sqrt(alpha_bar_T) ="
            f" {a:.1g}; with schedule {params.schedule}, v or x0 work better"
        )
    return schedule
