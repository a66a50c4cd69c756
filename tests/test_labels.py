"""Labels: how they reach the network, which then learns every class and the whole."""

import math
from pathlib import Path

import pytest
import torch
from conftest import shipped, shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import LossSettings, Params, TrainSettings
from ddpm.data.datasets import Gaussians
from ddpm.data.scaling import Scaling
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.tangents import prediction_with_jacobian
from ddpm.networks.mlp import ResidualMLP, ResidualMLPSettings
from ddpm.networks.model_file import load_model
from ddpm.reference.distribution import ExactDistribution
from ddpm.training.loop import train
from ddpm.training.neighbours import NeighbourSets
from ddpm.training.task import Labels, Task, denoising_loss
from stages import generate_labelled as generate
from stages import train as train_stage
from stages.common.outputs import completing
from stages.common.task import task_of

SIZES = {"width": 32, "blocks": 2, "fourier_features": 8, "time_features": 4}


def labelled_network(classes: int = 3, seed: int = 0) -> ResidualMLP:
    """A network with labels and random weights, also in its last layer."""
    settings = ResidualMLPSettings(**SIZES, fourier_scale=0.2)
    network = settings.create(100, classes, generator=stream(seed, "network"))
    assert isinstance(network, ResidualMLP)
    torch.nn.init.normal_(network.read_out.weight, generator=stream(seed, "read_out"))
    return network


def labelled_points(*sizes: int) -> tuple[Tensor, Tensor]:
    """Points around (0, 0), (10, 0), (20, 0) and so on, by label, in random order."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=stream(0, "order"))]
    points = torch.randn(len(labels), 2, generator=stream(0, "points"))
    return points + 10 * labels[:, None] * torch.tensor([1.0, 0.0]), labels


def test_without_labels_the_network_has_the_same_weights_as_ever() -> None:
    settings = ResidualMLPSettings(**SIZES, fourier_scale=0.2)
    plain, none = (
        settings.create(100, *classes, generator=stream(0, "w")) for classes in ((), (0,))
    )
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, none.state_dict()[name])
    assert labelled_network().read_in.in_features == plain.read_in.in_features + 4  # type: ignore[union-attr]


@torch.no_grad()
def test_a_label_for_each_point_is_the_same_as_one_for_all() -> None:
    network = labelled_network()
    x_t, t = torch.randn(9, 2, generator=stream(0, "x")), torch.tensor([40.0])
    label = torch.arange(9) % 4
    together = network(x_t, t, label)
    for value in range(4):
        given = network.given(None if value == 3 else value)
        torch.testing.assert_close(given(x_t, t)[label == value], together[label == value])
    torch.testing.assert_close(network(x_t, t), network.given(None)(x_t, t))
    assert not torch.allclose(network.given(0)(x_t, t), network.given(1)(x_t, t))
    # The weights are shared, not copied.
    given = network.given(0)
    before = given(x_t, t)
    network.read_in.bias.add_(1)
    assert not torch.allclose(before, given(x_t, t))


@pytest.mark.parametrize(("classes", "label"), [(3, -1), (3, 3), (0, 0)])
def test_a_label_that_does_not_exist_is_refused(classes: int, label: int) -> None:
    network = labelled_network(classes)
    with pytest.raises(UserError, match=f"label is {label} but should be"):
        network.given(label)


def test_the_jacobian_of_a_labelled_network_is_that_of_autograd() -> None:
    network = labelled_network().double().given(1)
    x_t = torch.randn(7, 2, dtype=torch.float64, generator=stream(0, "x"))
    t = torch.tensor([33.0], dtype=torch.float64)
    own = network.with_jacobian(x_t, t)
    by_autograd = prediction_with_jacobian(lambda x, t: network(x, t), x_t, t)
    for a, b in zip(own, by_autograd, strict=True):
        torch.testing.assert_close(a, b)


def test_the_written_out_gradient_takes_labels() -> None:
    network, batch = labelled_network().double(), 16
    task = Task(
        shipped_schedule("linear", 100),
        PREDICTIONS["v"],
        LossSettings(neighbours=4, time_power=0.5, integer_times=False),
        Labels(3, 0.2),
    )
    points, labels = labelled_points(30, 20, 25)
    sets = NeighbourSets.of(points.double(), 4, generator=stream(0, "sets"), labels=labels)
    drawn = task.batch(sets, (batch,), generator=stream(0, "batch"))
    drawn = drawn._replace(t=drawn.t.double())
    loss = denoising_loss(network, drawn)
    loss.backward()
    expected = {
        name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
    }
    own = network.loss_gradient(batch)
    assert own is not None
    value = own(tuple(part for part in own.inputs(*drawn.inputs)), drawn.target)
    torch.testing.assert_close(value, loss.detach())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_set_has_points_of_one_label_and_all_points_are_drawn_alike(size: int) -> None:
    points, labels = labelled_points(100, 37, 250)
    sets = NeighbourSets.of(points, size, generator=stream(0, "sets"), labels=labels)
    n = 200_000
    eps = torch.randn(n, 2, generator=stream(0, "eps"))
    clean = sets.draw(torch.full((n,), 0.3), eps, generator=stream(0, "draw"))
    assert clean.label is not None
    # The label is that of the point, and its set has no point of another class.
    assert torch.equal((clean.x0[:, 0] / 10).round().long().clamp(0, 2), clean.label)
    assert float((clean.mean_x0 - clean.x0).norm(dim=1).max()) < 8
    shares = clean.label.bincount() / n
    assert shares.tolist() == pytest.approx([100 / 387, 37 / 387, 250 / 387], abs=0.005)
    # No empty place is drawn, and every point is, about equally often.
    found, counts = clean.x0.unique(dim=0, return_counts=True)
    assert len(found) == 387
    expected = n / 387
    assert float((counts - expected).abs().max()) < 6 * math.sqrt(expected)


def test_labels_are_dropped_with_the_probability_that_is_asked_for() -> None:
    points, labels = labelled_points(50, 50)
    loss = LossSettings(neighbours=1, time_power=0, integer_times=False)
    task = Task(shipped_schedule("linear", 100), PREDICTIONS["v"], loss, Labels(2, 0.3))
    sets = NeighbourSets.of(points, 1, generator=stream(0, "sets"), labels=labels)
    batch = task.batch(sets, (40, 500), generator=stream(0, "batch"))
    assert batch.label is not None
    shares = batch.label.flatten().bincount() / 20_000
    assert shares.tolist() == pytest.approx([0.35, 0.35, 0.3], abs=0.015)
    # What is dropped does not depend on the label, nor do times and noise on the dropping.
    plain = NeighbourSets.of(points, 1, generator=stream(0, "sets"))
    without = task.batch(plain, (40, 500), generator=stream(0, "batch"))
    assert torch.equal(without.x_t, batch.x_t)
    assert without.label is None
    # The labels of the validation loss are all shown.
    validation = task.validation_batch(points, generator=stream(0, "v"), labels=labels)
    assert validation.label is not None
    assert sorted(validation.label.tolist()) == [0] * 50 + [1] * 50


def test_one_network_learns_each_class_and_the_whole() -> None:
    dataset, schedule = Gaussians(noise=0.15), shipped_schedule("linear", 100)
    points, labels = dataset.sample_with_labels(4000, generator=stream(0, "points"))
    scaling = Scaling.from_points(points)
    x = scaling.to_model(points).float()
    loss = LossSettings(neighbours=16, time_power=0.5, integer_times=False)
    task = Task(schedule, PREDICTIONS["v"], loss, Labels(8, 0.2))
    settings = ResidualMLPSettings(**SIZES, fourier_scale=0.15)
    network = settings.create(100, 8, generator=stream(0, "network"))
    adamw = {"lr": 6e-3, "warmup": 20, "weight_decay": 0, "grad_clip": 1, "ema_decay": 0.99}
    averaged, _ = train(
        network,
        task,
        x,
        x[:500],
        settings=TrainSettings(steps=800, batch=256, log_every=400, drop_label=0.2, **adamw),
        seed=0,
        labels=labels,
        test_labels=labels[:500],
    )
    exact = ExactDistribution.from_dataset(dataset, scaling, schedule)
    for label, truth in ((None, exact), (0, exact.given(0)), (5, exact.given(5))):
        given = task.denoiser(averaged.given(label))  # type: ignore[operator]
        for t in (20, 60):
            x_t = truth.sample(500, t, generator=stream(0, f"{label}/{t}"))
            with torch.no_grad():
                error = (given(x_t, t)[0] - truth.posterior_mean(x_t, t)).square().mean()
            assert float(error) < 0.02


def labelled_params(**changes: object) -> Params:
    values = shipped()
    values |= {"dataset": "moons", "device": "cpu"}
    values["data"] = {"n_train": 500, "n_test": 100}
    values["train"] |= {"steps": 20, "drop_label": 0.2, **changes}
    return Params.model_validate(values)


def test_stages_store_labels_and_the_model_returns_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = labelled_params()
    for module in (generate, train_stage):
        monkeypatch.setattr(module, "load_params", lambda **_: params)
        monkeypatch.setattr(module, "TRAIN", tmp_path / "train.npy")
        monkeypatch.setattr(module, "TEST", tmp_path / "test.npy")
    monkeypatch.setattr(train_stage, "MODEL", tmp_path / "model.safetensors")
    monkeypatch.setattr(train_stage, "TRAINING_CSV", tmp_path / "training.csv")
    monkeypatch.setattr(train_stage, "CHECKPOINTS", tmp_path)
    for stage in (generate, train_stage):
        with completing():
            stage.main()
    model = load_model(tmp_path / "model.safetensors")
    assert model.description.train.drop_label == 0.2
    x_t = torch.randn(5, 2, generator=stream(0, "x"))
    outer, whole = model.given(0), model.given(None)
    assert not torch.allclose(outer.predict(x_t, 500), model.given(1).predict(x_t, 500))
    assert torch.equal(whole.predict(x_t, 500), model.denoiser.predict(x_t, 500))
    with pytest.raises(UserError, match="label is 2 but should be 0 to 1"):
        model.given(2)
    # Labels that do not belong to the points are refused.
    (tmp_path / "train_labels.npy").write_bytes((tmp_path / "test_labels.npy").read_bytes())
    with pytest.raises(UserError, match=r"train_labels[.]npy cannot be used"), completing():
        train_stage.main()


def test_labels_of_a_data_set_without_them_are_refused() -> None:
    params = labelled_params().model_copy(update={"dataset": "spiral"})
    with pytest.raises(
        UserError, match=r"train.drop_label is 0.2 but dataset spiral has no labels"
    ):
        task_of(params)
