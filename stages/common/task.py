"""What the network of params.yaml is trained to do."""

from ddpm.core.params import Params
from ddpm.core.settings import choose
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.training.task import Task
from stages.common.schedule import schedule_of


def task_of(params: Params) -> Task:
    """Build the task from schedule, prediction type and settings of the loss.

    Raises:
        UserError: If the name of the schedule or of the prediction type is unknown, or a setting is
            not allowed.
    """
    prediction = choose("prediction", params.prediction, PREDICTIONS)
    return Task(schedule_of(params), prediction, params.loss)
