"""Validate all of pipelines/guidance/params.yaml, as `check` does for the root."""

from ddpm.core.errors import UserError
from ddpm.core.params import GuidanceParams
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.sampling.spacings import require_terminal_signal
from stages.common.check_training import check_training
from stages.common.dataset import known_dataset
from stages.common.files import write_text
from stages.common.guidance import guidance_of
from stages.common.params import load_params
from stages.common.paths import PARAMS_OK
from stages.common.run import run


def main() -> None:
    """Write a constant file, on which all other stages depend, if every parameter is allowed."""
    params = load_params(kind=GuidanceParams)
    if params.train.drop_label is None:
        raise UserError(
            "train.drop_label is missing but guidance needs a network with labels; add it, such as"
            " drop_label: 0.2, to params.yaml"
        )
    dataset = known_dataset(params)
    require_terminal_signal(check_training(params), "guidance")
    if not PREDICTIONS[params.prediction].regular:
        raise UserError(
            f"prediction is {params.prediction} but guidance is measured at t = 0, where only eps"
            " and v are finite; change prediction in params.yaml"
        )
    label = params.guidance.label
    if not label < len(dataset.classes):
        raise UserError(
            f"guidance.label is {label} but should be 0 to {len(dataset.classes) - 1}"
            f" ({', '.join(dataset.classes)}); change guidance.label in params.yaml"
        )
    if not dataset.noise > 0:
        raise UserError(
            f"datasets.{params.dataset}.noise is 0 but guidance is measured by densities, which"
            " need noise; raise it in params.yaml"
        )
    guidance_of(params)
    write_text(PARAMS_OK, "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
