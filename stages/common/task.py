"""What the network of params.yaml is trained to do."""

from ddpm.core.errors import UserError
from ddpm.core.params import TrainingParams
from ddpm.core.settings import choose
from ddpm.data.datasets import DATASETS
from ddpm.data.point_file import PointFile
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.training.task import Labels, Task
from stages.common.dataset import source_of
from stages.common.schedule import schedule_of


def task_of(params: TrainingParams) -> Task:
    """Build the task from schedule, prediction type, settings of the loss, and labels.

    Raises:
        UserError: If the name of the schedule or of the prediction type is unknown, or a setting is
            not allowed.
    """
    prediction = choose("prediction", params.prediction, PREDICTIONS)
    return Task(schedule_of(params), prediction, params.loss, labels_of(params))


def labels_of(params: TrainingParams) -> Labels | None:
    """How labels are shown to the network; None if they are not.

    Raises:
        UserError: If they should be, but the data set has none; a file may have some or none.
    """
    drop = params.train.drop_label
    if drop is None:
        return None
    source = source_of(params)
    classes = source.classes
    if not classes and isinstance(source, PointFile):
        return None
    if not classes:
        labelled = ", ".join(name for name, kind in DATASETS.items() if kind.classes)
        raise UserError(
            f"train.drop_label is {drop:g} but dataset {params.dataset} has no labels; remove"
            f" train.drop_label from params.yaml, or change dataset to one of {labelled}"
        )
    if not 0 < drop < 1:
        raise UserError(
            f"train.drop_label is {drop:g} but should be above 0 and below 1, so that the network"
            " sees labels and learns the null label; change it in params.yaml"
        )
    return Labels(len(classes), drop)
