"""Train a smaller network for fewer steps: the guide of autoguidance."""

from ddpm.core.params import GuidanceParams
from stages.common.params import load_params
from stages.common.paths import GUIDE
from stages.common.run import run
from stages.train import train_model


def main() -> None:
    """Write the guide, a network of the same labels with the width and steps of `guide`."""
    params = load_params(kind=GuidanceParams)
    network = params.networks[params.network] | {"width": params.guide.width}
    train = {"steps": params.guide.steps, "warmup": min(params.train.warmup, params.guide.steps)}
    changes = {
        "networks": params.networks | {params.network: network},
        "train": params.train.model_copy(update=train),
    }
    train_model(params.model_copy(update=changes), GUIDE)


if __name__ == "__main__":
    run(main)
