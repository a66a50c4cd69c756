import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import changed
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddpm.datasets import Scaling
from ddpm.denoiser import ResidualMLP
from ddpm.errors import UserError
from ddpm.model_file import load_denoiser, recipe_of, save_model
from ddpm.params import Params
from ddpm.runtime import stream

CPU = torch.device("cpu")
SCALING = Scaling(torch.tensor([0.1, -0.2]).double(), 0.7)


def network(params: Params, name: str) -> ResidualMLP:
    made = ResidualMLP(params.model, params.diffusion.T)
    made.initialise(generator=stream(0, name))
    torch.nn.init.normal_(made.read_out.weight, generator=stream(0, f"{name}/out"))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.npy"
    path.write_bytes(b"the points")
    return path


@pytest.fixture
def saved(tmp_path: Path, params: Params, data: Path) -> Path:
    path = tmp_path / "models" / "model.safetensors"
    save_model(
        path, network(params, "last"), network(params, "mean"), SCALING, recipe_of(params, data)
    )
    return path


def test_the_averaged_network_and_the_scaling_come_back(
    saved: Path, params: Params, data: Path
) -> None:
    denoiser, scaling = load_denoiser(saved, params, data, CPU)
    x = torch.randn(6, 2, generator=stream(0, "x"))
    t = torch.tensor([4.0])
    assert torch.equal(denoiser.function(x, t), network(params, "mean")(x, t))
    assert denoiser.schedule.T == params.diffusion.T
    assert torch.equal(scaling.mean, SCALING.mean)
    assert scaling.scale == SCALING.scale


def test_the_file_has_one_metadata_entry_and_the_same_bytes_every_time(
    saved: Path, tmp_path: Path, params: Params, data: Path
) -> None:
    again = tmp_path / "again.safetensors"
    save_model(
        again, network(params, "last"), network(params, "mean"), SCALING, recipe_of(params, data)
    )
    assert saved.read_bytes() == again.read_bytes()
    with safe_open(saved, framework="pt") as file:
        assert list(file.metadata()) == ["recipe"]
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe["data_sha256"] == hashlib.sha256(b"the points").hexdigest()
    assert recipe["schedules"] == {"linear": {"beta_start": 0.0001, "beta_end": 0.02}}
    assert "device" not in recipe


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("schedule", "cosine", "trained with schedule = linear but params.yaml has cosine;"),
        ("prediction", "eps", "trained with prediction = v but params.yaml has eps;"),
        ("diffusion.T", 40, r"trained with diffusion\.T = 30 but params.yaml has 40;"),
        ("model.width", 32, r"trained with model\.width = 16 but params.yaml has 32;"),
        ("train.lr", 0.1, r"trained with train\.lr = 0\.004 but params.yaml has 0\.1;"),
        ("data.noise", 0.1, r"trained with data\.noise = 0\.02 but params.yaml has 0\.1;"),
        ("seed", 1, "trained with seed = 0 but params.yaml has 1;"),
        (
            "schedules.linear.beta_end",
            0.01,
            r"trained with schedules\.linear\.beta_end = 0\.02 but params\.yaml has 0\.01;",
        ),
    ],
)
def test_a_model_of_other_parameters_is_refused(
    saved: Path, data: Path, small: dict[str, Any], name: str, value: object, message: str
) -> None:
    params = Params.model_validate(changed(small, **{name: value}))
    with pytest.raises(UserError, match=message) as refused:
        load_denoiser(saved, params, data, CPU)
    assert "dvc repro train" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "cpu"),
        ("sampler", "ddim"),
        ("samplers.ddim.eta", 0.5),
        ("sample.n", 200),
        ("sample.steps", 10),
        ("schedules.cosine.s", 0.1),
        ("evaluate.null_pairs", 5),
    ],
)
def test_device_sampler_and_sizes_may_differ(
    saved: Path, data: Path, small: dict[str, Any], name: str, value: object
) -> None:
    load_denoiser(saved, Params.model_validate(changed(small, **{name: value})), data, CPU)


def test_a_model_of_other_data_is_refused(saved: Path, params: Params, data: Path) -> None:
    data.write_bytes(b"other points")
    with pytest.raises(UserError, match=r"trained on other data than what is now in .*train\.npy;"):
        load_denoiser(saved, params, data, CPU)


@pytest.mark.parametrize("kept", [0, 5, 100, 1500, -1])
def test_a_truncated_model_is_refused(saved: Path, params: Params, data: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be used .*dvc repro train"):
        load_denoiser(saved, params, data, CPU)


def test_a_missing_model_is_refused(tmp_path: Path, params: Params, data: Path) -> None:
    with pytest.raises(
        UserError, match=r"gone\.safetensors is missing; make it with `dvc repro tr"
    ):
        load_denoiser(tmp_path / "gone.safetensors", params, data, CPU)


def rewritten(path: Path, params: Params, data: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path) | changes
    recipe = json.dumps(recipe_of(params, data))
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"recipe": recipe})


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("ema.read_out.bias", torch.tensor([1.0, float("nan")]), "not finite"),
        ("ema.read_out.bias", torch.zeros(3), r"of shape \(3,\) but should be of \(2,\)"),
        (
            "ema.read_out.bias",
            torch.zeros(2).double(),
            "is torch.float64 but should be torch.float32",
        ),
        ("ema.read_out.bias", None, "does not contain tensor ema.read_out.bias"),
        (
            "scaling.scale",
            torch.tensor(-1.0).double(),
            r"scaling\.scale is -1 but should be above 0",
        ),
        ("scaling.mean", torch.zeros(2), "is torch.float32 but should be torch.float64"),
    ],
)
def test_a_model_with_other_tensors_is_refused(
    saved: Path, params: Params, data: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    rewritten(saved, params, data, **{name: tensor})
    with pytest.raises(UserError, match=message):
        load_denoiser(saved, params, data, CPU)


@pytest.mark.parametrize("metadata", [None, {"recipe": "{"}, {"recipe": "[]"}, {"other": "1"}])
def test_a_foreign_safetensors_file_is_refused(
    tmp_path: Path, params: Params, data: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(UserError, match=r"dvc repro train"):
        load_denoiser(path, params, data, CPU)
