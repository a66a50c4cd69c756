"""The model on disk: weights, averaged weights, scaling, and all that determined them.

One safetensors file. Its single metadata entry, `recipe`, is sorted JSON with the resolved
parameters and the hash of the training data (safetensors writes several entries in random order). A
model whose recipe is not the present one is refused: its numbers would stand under the wrong
parameters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddpm.datasets import Scaling
from ddpm.denoiser import ResidualMLP
from ddpm.errors import UserError
from ddpm.files import reading, replacing, sha256
from ddpm.params import PARAMS_FILE, Params, choose
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.schedules import schedule_of

_STAGE = "train"
_DATA = "data_sha256"


def recipe_of(params: Params, data: Path) -> dict[str, Any]:
    """All that determines a model, but for the code: parameters and training data.

    Device, sampler and sample sizes are not part of it.

    Args:
        params: The present parameters.
        data: The file of training points; its bytes are hashed.

    Raises:
        UserError: If the data cannot be read.
    """
    name = params.schedule
    return {
        "data": params.data.model_dump(),
        _DATA: sha256(data, stage="generate"),
        "diffusion": params.diffusion.model_dump(),
        "model": params.model.model_dump(),
        "prediction": params.prediction,
        "schedule": name,
        "schedules": {name: params.schedules.get(name)},
        "seed": params.seed,
        "train": params.train.model_dump(),
    }


def save_model(
    path: Path, network: nn.Module, averaged: nn.Module, scaling: Scaling, recipe: dict[str, Any]
) -> None:
    """Write a trained model.

    Args:
        path: Where to.
        network: With the last weights.
        averaged: With the averaged weights, which sampling uses.
        scaling: Of the training points.
        recipe: See `recipe_of`.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in averaged.state_dict().items()}
    tensors["scaling.mean"] = scaling.mean
    tensors["scaling.scale"] = torch.tensor(scaling.scale, dtype=torch.float64)
    # Weights are views of one vector; safetensors wants each with memory of its own.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    content = save(tensors, metadata={"recipe": json.dumps(recipe, sort_keys=True)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_denoiser(
    path: Path, params: Params, data: Path, device: torch.device
) -> tuple[Denoiser, Scaling]:
    """Load a model that was made from the present parameters and data.

    Args:
        path: The file.
        params: The present parameters.
        data: The present file of training points.
        device: Where to put the network.

    Returns:
        The network with the averaged weights as a denoiser, and the scaling it was trained with.

    Raises:
        UserError: If the file is missing, truncated or foreign, or has another recipe.
    """
    schedule = schedule_of(params)
    prediction = choose("prediction", params.prediction, PREDICTIONS)
    network = ResidualMLP(params.model, schedule.T)
    recipe = recipe_of(params, data)
    with reading(path, _STAGE):
        with safe_open(path, framework="pt") as file:
            saved = json.loads((file.metadata() or {})["recipe"])
            _refuse_other(saved, recipe, path, data)
            state = {
                name: _tensor(file, f"ema.{name}", like=tensor)
                for name, tensor in network.state_dict().items()
            }
            mean = _tensor(file, "scaling.mean", like=torch.empty(2).double())
            scale = _tensor(file, "scaling.scale", like=torch.empty(()).double())
        if not scale > 0:
            raise ValueError(f"its scaling.scale is {float(scale):g} but should be above 0")
    network.load_state_dict(state)
    denoiser = Denoiser(network.to(device).eval(), prediction, schedule, torch.float32)
    return denoiser, Scaling(mean, float(scale))


def refuse_other_model(made_with: object, model: Path, path: Path, *, stage: str) -> None:
    """Refuse what was made with another model than the one that lies there now.

    Args:
        made_with: The hash of the model that a file says it was made with, see `files.sha256`.
        model: The present model.
        path: The file, made by `stage`.
        stage: For the message.

    Raises:
        UserError: If they are not the same.
    """
    if made_with != sha256(model, stage=_STAGE):
        raise UserError(
            f"{path} was made with another model than what is now in {model}; make it again with"
            f" `dvc repro {stage}`"
        )


def _tensor(file: Any, name: str, *, like: Tensor) -> Tensor:  # noqa: ANN401 - it has no types
    shape = tuple(file.get_slice(name).get_shape())
    if shape != like.shape:
        # It is not read, as it may be of any size.
        raise ValueError(f"its {name} is of shape {shape} but should be of {tuple(like.shape)}")
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype != like.dtype:
        raise ValueError(f"its {name} is {tensor.dtype} but should be {like.dtype}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"its {name} holds values that are not finite")
    return tensor


def _refuse_other(saved: object, recipe: dict[str, Any], path: Path, data: Path) -> None:
    before, now = dict(_leaves(saved)), dict(_leaves(json.loads(json.dumps(recipe))))
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if not different:
        return
    # The schedule's name says more than its settings, and parameters more than a hash.
    key = min(different, key=lambda key: (key != "schedule", key == _DATA))
    if key == _DATA:
        raise UserError(
            f"{path} was trained on other data than what is now in {data}; make both again with"
            f" `dvc repro {_STAGE}`"
        )
    raise UserError(
        f"{path} was trained with {key} = {before.get(key, 'nothing')} but {PARAMS_FILE} has"
        f" {now.get(key, 'nothing')}; train again with `dvc repro {_STAGE}` or change {key} back"
    )


def _leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
