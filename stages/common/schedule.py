"""The noise schedule that params.yaml names."""

from ddpm.core.errors import UserError
from ddpm.core.params import TrainingParams
from ddpm.diffusion.schedule import Schedule
from ddpm.diffusion.schedules import SCHEDULES, make_schedule
from stages.common.params import select


def schedule_of(params: TrainingParams) -> Schedule:
    """Build the schedule.

    Raises:
        UserError: If its name, its settings or T are not allowed.
    """
    settings, diffusion = select(params, "schedule", SCHEDULES), params.diffusion
    return make_schedule(settings, diffusion.T, zero_terminal_snr=diffusion.zero_terminal_snr)


def refuse_eps_without_signal(params: TrainingParams) -> None:
    """Refuse a schedule without terminal signal for prediction eps, which then loses x_0.

    Raises:
        UserError: If both are set.
    """
    if params.diffusion.zero_terminal_snr and params.prediction == "eps":
        raise UserError(
            "diffusion.zero_terminal_snr is true but prediction is eps, from which x_0 cannot be"
            " recovered where there is no signal; change prediction to v or x0 in params.yaml"
        )
