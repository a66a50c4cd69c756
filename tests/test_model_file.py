import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import changed, inside
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import Params
from ddpm.data.datasets import DATASETS
from ddpm.data.scaling import Scaling
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.networks.model_file import ModelDescription, NamedSettings, load_model, save_model
from ddpm.networks.network import Network
from ddpm.networks.registry import NETWORKS
from stages.common.params import select
from stages.common.schedule import schedule_of

SCALING = Scaling(torch.tensor([0.1, -0.2]).double(), 0.7)


def network_of(params: Params, name: str) -> Network:
    """A network with random weights that its name determines."""
    network = select(params, "network", NETWORKS).build(params.diffusion.T)
    generator = stream(0, name)
    network.initialise(generator=generator)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def description_of(params: Params) -> ModelDescription:
    def named(kind: str) -> NamedSettings:
        name = getattr(params, kind)
        return NamedSettings(name=name, settings=getattr(params, f"{kind}s")[name])

    return ModelDescription(
        dataset=named("dataset"),
        data_sha256="0123",
        schedule=named("schedule"),
        diffusion=params.diffusion,
        network=named("network"),
        prediction=params.prediction,
        loss=params.loss,
        train=params.train,
        seed=params.seed,
        device="a card",
    )


def save_of(params: Params, path: Path) -> Path:
    last, averaged = network_of(params, "last"), network_of(params, "averaged")
    save_model(path, description_of(params), last, averaged, SCALING)
    return path


@pytest.fixture
def saved(tmp_path: Path, params: Params) -> Path:
    return save_of(params, tmp_path / "models" / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        *({"schedule": name} for name in SCHEDULES),
        *({"dataset": name} for name in DATASETS),
        *({"network": name} for name in NETWORKS),
        *({"prediction": name} for name in PREDICTIONS),
        {"diffusion.T": 40},
        {"diffusion.zero_terminal_snr": True},
        {"schedules.linear.beta_end": 0.01},
        {"datasets.spiral.noise": 0.1},
        {"networks.mlp.width": 12, "networks.mlp.fourier_features": 0},
        {"train.lr": 0.1},
        {"seed": 2**63 - 1},
    ],
    ids=str,
)
def test_everything_is_rebuilt_from_the_file_alone(
    tmp_path: Path, small: dict[str, Any], changes: dict[str, Any]
) -> None:
    params = Params.model_validate(changed(small, **changes))
    save_of(params, tmp_path / "model.safetensors")
    with inside(tmp_path):
        model = load_model(Path("model.safetensors"))
    assert model.description == description_of(params)
    assert model.description.device == "a card"
    assert model.seed == params.seed
    assert model.dataset == select(params, "dataset", DATASETS)
    assert type(model.dataset) is DATASETS[params.dataset]
    assert model.denoiser.prediction is PREDICTIONS[params.prediction]
    assert torch.equal(model.denoiser.schedule.log_alpha_bar, schedule_of(params).log_alpha_bar)
    assert torch.equal(model.scaling.mean, SCALING.mean)
    assert model.scaling.scale == SCALING.scale


def test_the_averaged_network_comes_back_in_float32_and_for_evaluation(
    saved: Path, params: Params
) -> None:
    model = load_model(saved)
    network, averaged = model.denoiser.function, network_of(params, "averaged")
    assert isinstance(network, Network)
    assert not network.training
    assert model.denoiser.precision == torch.float32
    x_t = torch.randn(6, 2, generator=stream(0, "x"))
    for t in (0.0, 4.0, 30.0):
        time = torch.tensor([t])
        assert torch.equal(network(x_t, time), averaged(x_t, time))
        assert torch.equal(model.denoiser.predict(x_t, t), averaged(x_t, time))
    last = network_of(params, "last").state_dict()
    tensors = load_file(saved)
    assert all(torch.equal(tensors[f"weights.{name}"], last[name]) for name in last)


def test_the_network_is_put_on_the_device_asked_for(saved: Path) -> None:
    model = load_model(saved, torch.device("meta"))
    assert isinstance(model.denoiser.function, Network)
    assert {tensor.device.type for tensor in model.denoiser.function.state_dict().values()} == {
        "meta"
    }


def test_weights_that_share_memory_can_be_saved(saved: Path, params: Params) -> None:
    layer = nn.Linear(2, 2)
    tied = nn.ModuleList([layer, layer])
    save_model(saved, description_of(params), tied, tied, SCALING)
    tensors = load_file(saved)
    for k in (0, 1):
        assert torch.equal(tensors[f"weights.{k}.weight"], layer.weight)
        assert torch.equal(tensors[f"ema.{k}.weight"], layer.weight)


def test_weights_that_are_views_of_one_vector_are_saved_to_the_same_bytes(
    saved: Path, params: Params
) -> None:
    # As they are after training.
    networks = [network_of(params, "last"), network_of(params, "averaged")]
    for network in networks:
        parameters = list(network.parameters())
        vector = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(vector, parameters)
    content = saved.read_bytes()
    save_model(saved, description_of(params), *networks, SCALING)
    assert saved.read_bytes() == content


def test_the_file_has_one_metadata_entry_and_the_same_bytes_every_time(
    saved: Path, tmp_path: Path, params: Params
) -> None:
    again = save_of(params, tmp_path / "again.safetensors")
    assert saved.read_bytes() == again.read_bytes()
    with safe_open(saved, framework="pt") as file:
        assert list(file.metadata()) == ["model"]
        text = file.metadata()["model"]
    values = json.loads(text)
    assert text == json.dumps(values, sort_keys=True)
    assert values["data_sha256"] == "0123"
    assert values["schedule"] == {
        "name": "linear",
        "settings": {"beta_start": 0.0001, "beta_end": 0.02},
    }


def test_a_model_replaces_another_and_leaves_nothing_beside_it(saved: Path, params: Params) -> None:
    save_of(params.model_copy(update={"seed": 5}), saved)
    assert load_model(saved).seed == 5
    assert list(saved.parent.iterdir()) == [saved]


# Files that cannot be used


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_model(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert message.endswith("; train the model again with `dvc repro train`")
    assert "\n" not in message
    assert "params.yaml" not in message
    return message


def rewrite(path: Path, description: dict[str, Any] | None = None, **tensors: Any) -> None:  # noqa: ANN401
    """Change tensors (None removes one) and dotted values of the description in a model file."""
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["model"])
    text = json.dumps(changed(values, **(description or {})))
    changes = load_file(path) | tensors
    present = {name: tensor for name, tensor in changes.items() if tensor is not None}
    save_file(present, path, metadata={"model": text})


def test_a_model_of_an_earlier_format_is_refused_as_such(saved: Path) -> None:
    save_file(load_file(saved), saved, metadata={"recipe": json.dumps({"prediction": "v"})})
    assert "has the format of an earlier version of ddpm;" in refusal(saved)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    assert "gone.safetensors is missing;" in refusal(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("length", [0, 5, 100, 1500, -1])
def test_a_truncated_model_is_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    assert "model.safetensors cannot be used (" in refusal(saved)


@pytest.mark.parametrize(
    "metadata", [None, {"model": "{"}, {"model": "[]"}, {"model": "{}"}, {"other": "1"}]
)
def test_a_foreign_safetensors_file_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    refusal(path)


def test_a_pickle_is_refused_and_none_of_its_code_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "model.safetensors", tmp_path / "trace"

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    path.write_bytes(pickle.dumps(Touch()))
    assert "cannot be used (" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["ema.read_out.bias", "scaling.mean", "scaling.scale"])
def test_a_model_that_is_not_finite_is_refused(saved: Path, name: str, value: float) -> None:
    tensor = load_file(saved)[name].clone()
    tensor.view(-1)[-1] = value
    rewrite(saved, **{name: tensor})
    assert f"(its {name} holds values that are not finite);" in refusal(saved)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("ema.read_out.bias", torch.zeros(3), "loading state_dict for ResidualMLP"),
        ("ema.read_out.bias", None, "does not contain tensor ema.read_out.bias"),
        ("scaling.mean", None, "does not contain tensor scaling.mean"),
    ],
)
def test_a_model_with_other_tensors_is_refused(
    saved: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    rewrite(saved, **{name: tensor})
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("network.name", "unet", r"(its network is 'unet' but should be one of mlp"),
        ("schedule.name", "exponential", r"(its schedule is 'exponential' but should be one of li"),
        ("dataset.name", "torus", r"(its dataset is 'torus' but should be one of spiral"),
        ("prediction", "score", r"(its prediction is 'score' but should be one of eps, x0, v"),
        ("network.settings.width", -1, "1 validation error for ResidualMLPSettings"),
        ("schedule.settings.beta", 1, "1 validation error for Linear"),
        ("seed", None, "1 validation error for ModelDescription"),
        ("train.momentum", 1, "1 validation error for ModelDescription"),
    ],
)
def test_a_model_of_kinds_or_settings_that_the_code_does_not_have_is_refused(
    saved: Path, name: str, value: object, message: str
) -> None:
    rewrite(saved, {name: value})
    assert message in refusal(saved)
