import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shipped_schedule
from torch import nn

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import LossSettings, Params, TrainSettings
from ddpm.data.datasets import SPIRAL
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.flow.likelihood import log_likelihood
from ddpm.networks.mlp import ResidualMLPSettings
from ddpm.networks.network import Network
from ddpm.networks.registry import NETWORKS
from ddpm.reference.distribution import ExactDistribution
from ddpm.training import loop, progress
from ddpm.training.checkpoint import Checkpoint
from ddpm.training.loop import learning_rate, train
from ddpm.training.neighbours import NeighbourSets
from ddpm.training.progress import Record
from ddpm.training.task import Task, TrainingBatch, denoising_loss
from stages.common.params import select


def initialised(params: Params) -> Network:
    network = select(params, "network", NETWORKS).build(params.diffusion.T)
    network.initialise(generator=stream(0, "network"))
    return network


TEXTBOOK = LossSettings(neighbours=1, time_power=0, integer_times=True)


def task_of(prediction: str, T: int = 30, **changed: float) -> Task:
    loss = TEXTBOOK.model_copy(update=changed)
    return Task(shipped_schedule("linear", T), PREDICTIONS[prediction], loss)


def drawn(task: Task, points: torch.Tensor, shape: tuple[int, ...], seed: int = 0) -> TrainingBatch:
    sets = NeighbourSets.of(points, task.loss.neighbours, generator=stream(0, "sets"))
    return task.batch(sets, shape, generator=stream(seed, "batch"))


def trained(
    params: Params,
    prediction: str = "v",
    *,
    checkpoint: Checkpoint | None = None,
    **settings: float,
) -> tuple[nn.Module, nn.Module, list[Record]]:
    network = initialised(params)
    points = torch.randn(64, 2, generator=stream(0, "points"))
    changed = params.train.model_copy(update=settings)
    averaged, records = train(
        network,
        task_of(prediction),
        points,
        points[:20],
        settings=changed,
        seed=0,
        checkpoint=checkpoint,
    )
    return network, averaged, records


@pytest.mark.parametrize("n", [1, 7, 30, 64])
def test_integer_times_are_stratified_over_one_to_T(n: int) -> None:  # noqa: N802
    t = drawn(task_of("v", 30), torch.zeros(5, 2), (200, n)).t
    assert t.shape == (200, n)
    assert float(t.min()) >= 1
    assert float(t.max()) <= 30
    stratum = torch.arange(n) / n * 30
    assert bool((t >= stratum.ceil().clamp(min=1)).all())
    assert bool((t <= (stratum + 30 / n).ceil()).all())
    counts = torch.bincount(t.flatten().long(), minlength=31)[1:]
    expected = 200 * n / 30
    assert float((counts - expected).abs().max()) < 5 * math.sqrt(expected) + 1


@pytest.mark.parametrize("power", [0.0, 0.5, 0.65, 0.9])
def test_real_times_have_the_density_of_the_power(power: float) -> None:
    task = task_of("v", 1000, time_power=power, integer_times=False)
    t = drawn(task, torch.zeros(5, 2), (100, 500)).t.double()
    # P(t <= x) = (x / T)^(1 - power); stratified, so the fractions are nearly exact.
    for x in (1.0, 10.0, 100.0, 900.0):
        expected = (x / 1000) ** (1 - power)
        assert float((t <= x).double().mean()) == pytest.approx(expected, abs=5e-4)
    assert 0 < float(t.min()) < 1
    assert float(t.max()) <= 1000
    whole = task_of("v", 1000, time_power=power)
    assert torch.equal(drawn(whole, torch.zeros(5, 2), (100, 500)).t.double(), t.ceil())


def test_validation_covers_the_same_times_evenly_and_few_of_them() -> None:
    task = task_of("v", 1000, time_power=0.5, integer_times=False)
    points = torch.randn(10_000, 2, generator=stream(0, "points"))
    batch = task.validation_batch(points, generator=stream(0, "validation"))
    times, counts = batch.t.unique(return_counts=True)
    assert len(times) == 500
    assert bool((counts == 20).all())
    assert float((times.double() <= 10).double().mean()) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_batch_asks_for_the_target_of_the_prediction(prediction: str) -> None:
    task = task_of(prediction)
    x0 = torch.randn(1, 2, generator=stream(0, "x0"))
    batch = drawn(task, x0, (50,))
    for k in range(50):
        denoiser = Denoiser(
            lambda x, t, k=k: batch.target[k : k + 1], task.prediction, task.schedule
        )
        x0_hat, eps_hat = denoiser(batch.x_t[k : k + 1], int(batch.t[k]))
        torch.testing.assert_close(x0_hat, x0, rtol=1e-3, atol=1e-3)
        assert float(eps_hat.abs().max()) < 6


def test_the_rate_rises_and_then_falls_as_a_cosine(params: Params) -> None:
    settings = params.train.model_copy(update={"steps": 1000, "warmup": 100, "lr": 2.0})
    rates = [learning_rate(settings, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[99] < 2.0
    assert rates[500] == pytest.approx(1.0)
    assert rates[999] < 1e-4
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    without_warmup = settings.model_copy(update={"warmup": 0})
    assert learning_rate(without_warmup, 0) == 2.0


def test_weights_as_one_vector_give_the_same_output_and_gradient(params: Params) -> None:
    network, x = initialised(params), torch.randn(9, 2, generator=stream(0, "x"))
    nn.init.normal_(network.read_out.weight, generator=stream(0, "weight"))
    plain = copy.deepcopy(network)
    vector = loop._as_one_vector(network)
    for model in (plain, network):
        model(x, torch.tensor([3.0])).square().sum().backward()
    assert torch.equal(vector, nn.utils.parameters_to_vector(plain.parameters()))
    gradients = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    assert torch.equal(vector.grad, gradients)
    vector.data.zero_()
    assert not any(bool(parameter.any()) for parameter in network.parameters())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_same_seed_gives_the_same_bits(params: Params, prediction: str) -> None:
    runs = [trained(params, prediction) for _ in range(2)]
    for k in (0, 1):
        states = [run[k].state_dict() for run in runs]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert runs[0][2] == runs[1][2]


def test_records_come_at_every_interval_and_at_the_end(params: Params) -> None:
    *_, records = trained(params, steps=50, log_every=20)
    assert [record.step for record in records] == [20, 40, 50]
    assert all(math.isfinite(value) for record in records for value in record)


def test_the_average_follows_the_weights_with_the_ramped_decay(
    params: Params,
) -> None:
    # After step k the decay is (1 + k) / (10 + k), at most ema_decay: with 0 it is the weights.
    network, averaged, _ = trained(params, ema_decay=0.0)
    for weight, average in zip(network.parameters(), averaged.parameters(), strict=True):
        assert torch.equal(weight, average)
    start = nn.utils.parameters_to_vector(initialised(params).parameters())
    network, averaged, _ = trained(params, steps=1, ema_decay=0.999)
    end = nn.utils.parameters_to_vector(network.parameters())
    expected = start + (end - start) * 0.9
    torch.testing.assert_close(nn.utils.parameters_to_vector(averaged.parameters()), expected)


def test_clipping_bounds_the_first_step(params: Params) -> None:
    # Without decay, AdamW's first step is lr times the gradient's sign, unless that nears epsilon.
    *_, loose = trained(params, steps=1, grad_clip=1e9)
    *_, tight = trained(params, steps=1, grad_clip=1e-9)
    assert loose[0].grad_norm == tight[0].grad_norm > 1e-3
    moved = {}
    for clip in (1e9, 1e-12):
        network, *_ = trained(params, steps=1, warmup=0, grad_clip=clip, weight_decay=0)
        start = nn.utils.parameters_to_vector(initialised(params).parameters())
        end = nn.utils.parameters_to_vector(network.parameters())
        moved[clip] = (end - start).abs().max().item()
    assert moved[1e9] == pytest.approx(params.train.lr, rel=1e-3)
    assert moved[1e-12] < 1e-3 * params.train.lr


# Bounds in nats: the mean over eight seeds plus four of their standard deviations, rounded up.
DIVERGENCES = {"eps": 0.14, "x0": 0.08, "v": 0.09}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_reaches_a_small_divergence_from_the_truth(prediction: str) -> None:
    noise, early = 0.2, 5
    points = SPIRAL.sample(4000, noise, generator=stream(0, "points"))
    scaling = Scaling.from_points(points)
    task = task_of(prediction, T=100)
    exact = ExactDistribution.from_curves([(1.0, SPIRAL)], noise, scaling, task.schedule)
    sizes = {"width": 32, "blocks": 2, "fourier_features": 16, "time_features": 8}
    network = ResidualMLPSettings(**sizes, fourier_scale=0.3).create(
        task.schedule.T, generator=stream(0, "network")
    )
    adamw = {"lr": 0.01, "warmup": 20, "weight_decay": 0, "ema_decay": 0.99, "grad_clip": 1}
    settings = TrainSettings(steps=1000, batch=256, log_every=1000, **adamw)
    x0 = scaling.to_model(points).float()
    averaged, _ = train(network, task, x0, x0[:100], settings=settings, seed=0)
    # Early in time rather than at 0, where the density of a model that predicts x0 is not smooth.
    x = exact.sample(1000, early, generator=stream(1, "x"))
    log_likelihoods = log_likelihood(task.denoiser(averaged), x, early, tolerance=1e-3)
    divergence = float((exact.log_density(x, early) - log_likelihoods).mean())
    assert -0.03 < divergence < DIVERGENCES[prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_point_is_learned(params: Params, prediction: str) -> None:
    # All data at c: the best prediction is known, and its loss is 0.
    point = torch.tensor([[0.8, -0.5]])
    network, task = initialised(params), task_of(prediction)
    settings = params.train.model_copy(update={"steps": 1500, "batch": 128, "lr": 0.01})
    averaged, records = train(network, task, point, point, settings=settings, seed=0)
    scale = float(drawn(task, point, (999,), seed=1).target.square().mean())
    assert records[-1].val_loss < 0.02 * scale
    denoiser = Denoiser(averaged, task.prediction, task.schedule)
    with torch.no_grad():
        x0_hat, _ = denoiser(0.7 * point + torch.tensor([[0.3, -0.4], [-0.5, 0.1]]), 12)
    torch.testing.assert_close(x0_hat, point.repeat(2, 1), rtol=0, atol=0.15)


def test_the_validation_loss_repeats_its_noise(params: Params) -> None:
    # With a rate of almost nothing the network stays, and so must its loss on the test points.
    *_, records = trained(params, lr=1e-30, steps=60, log_every=20)
    assert len({record.val_loss for record in records}) == 1
    assert len({record.loss for record in records}) == 3


def test_training_that_diverges_is_reported_in_one_line(params: Params) -> None:
    with pytest.raises(
        UserError, match=r"diverged by step \d+ \(loss .*\) with train\.lr = 10; low"
    ):
        trained(params, lr=10.0, steps=4000, grad_clip=1e30, log_every=1000, weight_decay=10.0)


def test_the_loss_is_the_mean_over_points_and_coordinates(params: Params) -> None:
    task = task_of("eps")
    batch = drawn(task, torch.zeros(5, 2), (40,))
    # A new network predicts zero.
    expected = sum(float(value) ** 2 for value in batch.target.flatten()) / 80
    assert denoising_loss(initialised(params), batch).item() == pytest.approx(expected, rel=1e-5)


def test_validation_uses_the_averaged_weights(params: Params) -> None:
    _, averaged, records = trained(params)
    task = task_of("v")
    points = torch.randn(64, 2, generator=stream(0, "points"))
    batch = loop.validation_batch(task, points[:20], 0)
    with torch.no_grad():
        assert records[-1].val_loss == pytest.approx(float(denoising_loss(averaged, batch)))


@pytest.mark.parametrize("after", [1, 2, 5])
def test_interrupted_training_resumes_to_the_same_bits(
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: int,
) -> None:
    # A checkpoint at every chunk of 7 steps; records at every 20: also between the two.
    monkeypatch.setattr(loop, "_CHUNK_POINTS", 7 * params.train.batch)
    monkeypatch.setattr(progress, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_CHECKPOINT_RATIO", 0)
    network, averaged, records = trained(params, steps=50)
    checkpoint = Checkpoint.of(tmp_path, {})
    saved = 0
    save = Checkpoint.save

    def save_and_interrupt(self: Checkpoint, tensors: Any, progress: Any) -> None:  # noqa: ANN401
        nonlocal saved
        save(self, tensors, progress)
        saved += 1
        if saved == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(params, checkpoint=checkpoint, steps=50)
    monkeypatch.setattr(Checkpoint, "save", save)
    resumed = trained(params, checkpoint=checkpoint, steps=50)
    assert (
        f"resuming training after step {7 * (after - 1)}, from {checkpoint.path}\n"
        in capsys.readouterr().out
    )
    for uninterrupted, other in zip((network, averaged), resumed[:2], strict=True):
        states = uninterrupted.state_dict(), other.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert resumed[2] == records


def test_checkpoints_become_rarer_where_saving_one_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    timer = progress.CheckpointTimer()
    assert not timer.is_due()
    now += 1
    assert timer.is_due()

    def save(seconds: float) -> None:
        nonlocal now
        now += seconds

    for seconds, pause in ((0.01, 1.0), (0.5, 10.0)):
        timer.run(lambda seconds=seconds: save(seconds))
        now += pause - 1e-6
        assert not timer.is_due()
        now += 2e-6
        assert timer.is_due()


def test_a_task_wraps_the_network_that_it_trained(params: Params) -> None:
    task, network = task_of("v"), initialised(params).train()
    denoiser = task.denoiser(network)
    assert denoiser.function is network
    assert not network.training
    assert (denoiser.prediction, denoiser.schedule) == (task.prediction, task.schedule)
    # The network is float32, and the points may be float64.
    assert denoiser.predict(torch.zeros(2, 2).double(), 3.5).dtype == torch.float64
