"""The samples of the current model, for the stages that measure them."""

import torch
from torch import Tensor

from ddpm.core.errors import UserError
from stages.common.files import read_arrays, read_points, refuse_other_model
from stages.common.paths import MODEL, SAMPLES, TRAJECTORIES


def read_samples() -> Tensor:
    """Read the samples, data units.

    Raises:
        UserError: If they are of another model, or of another run than the trajectories.
    """
    samples = torch.from_numpy(read_points(SAMPLES, stage="sample"))
    x, made_with = read_arrays(TRAJECTORIES, ("x", "model"), stage="sample").values()
    refuse_other_model(str(made_with), MODEL, TRAJECTORIES, stage="sample")
    if not torch.equal(samples[: x.shape[1]], torch.from_numpy(x[-1])):
        raise UserError(
            f"{SAMPLES} holds other points than {TRAJECTORIES} ends with; make both again with"
            " `dvc repro sample`"
        )
    return samples
