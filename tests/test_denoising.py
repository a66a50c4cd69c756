import math

import pytest
import torch
from conftest import shipped_schedule
from exact_cases import STD, gaussian_truth, shifted
from torch import Tensor

from ddpm import runtime
from ddpm.denoising import denoise, distance_between
from ddpm.process import PREDICTIONS, prior_gap
from ddpm.runtime import stream
from ddpm.truth import Truth


def gaussian(T: int = 60, n: int = 700) -> tuple[Truth, Tensor]:
    truth = gaussian_truth(shipped_schedule("linear", T))
    return truth, truth.sample(n, 0, generator=stream(0, "clean"))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_constant_mistake_is_the_excess(prediction: str) -> None:
    truth, x0 = gaussian()
    found = denoise(shifted(truth.denoiser, prediction, 0.1), truth.denoiser, x0, seed=0)
    assert found.by_time.excess.tolist() == pytest.approx([0.01] * 60)
    assert found.by_point.excess.tolist() == pytest.approx([0.01] * len(x0))
    # In expectation the loss is what is inevitable and the excess.
    extra = found.by_point.loss - found.by_point.optimal - found.by_point.excess
    assert abs(float(extra.mean())) < 4 * float(extra.std()) / math.sqrt(len(x0))
    assert float(found.by_time.loss.mean()) == pytest.approx(float(found.by_point.loss.mean()))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_least_possible_loss_of_gaussian_data_is_the_closed_form(prediction: str) -> None:
    truth, x0 = gaussian(n=4000)
    found = denoise(shifted(truth.denoiser, prediction, 0.0), truth.denoiser, x0, seed=0)
    for t in (1, 20, 60):
        a, sigma = truth.schedule.levels(t)
        # Of x_0 given x_t; eps and v follow from x_0 and x_t by a factor.
        variance = STD**2 * sigma**2 / (a**2 * STD**2 + sigma**2)
        factor = {"x0": 1, "eps": a / sigma, "v": 1 / sigma}[prediction]
        expected = variance * factor**2
        assert float(found.by_time.optimal[t - 1]) == pytest.approx(
            expected, rel=4 * math.sqrt(2 / 8000)
        )
        assert float(found.by_time.excess[t - 1]) == pytest.approx(0, abs=1e-20 / sigma**4)


def test_the_bound_of_gaussian_data_is_the_closed_form() -> None:
    truth, x0 = gaussian(n=8000)
    found = denoise(truth.denoiser, truth.denoiser, x0, seed=0)
    schedule = truth.schedule
    snr = [math.inf] + [math.exp(float(schedule.log_snr[t])) for t in range(1, 61)]

    def error(t: int) -> float:
        return 2 * STD**2 / (snr[t] * STD**2 + 1)

    steps = sum((snr[t - 1] - snr[t]) / 2 * error(t) for t in range(2, 61))
    decoder = math.log(2 * math.pi / snr[1]) + snr[1] / 2 * error(1)
    expected = {"steps": steps, "decoder": decoder, "prior": float(prior_gap(schedule, x0).mean())}
    for name, value in expected.items():
        term = getattr(found.bound, name)
        assert float(term.mean()) == pytest.approx(
            value, abs=4 * float(term.std()) / math.sqrt(8000) + 1e-12
        )
    assert torch.equal(found.bound.total, found.best_bound.total)
    total = float(found.bound_by_time.sum()) + float(found.bound.prior.mean())
    assert total == pytest.approx(float(found.bound.total.mean()))
    assert float(found.bound_by_time[0]) == pytest.approx(float(found.bound.decoder.mean()))
    # It is a bound: never below the entropy.
    entropy = math.log(2 * math.pi * math.e * STD**2)
    assert sum(expected.values()) > entropy


def test_more_steps_make_the_bound_tighter() -> None:
    means = []
    for T in (40, 160):
        truth, x0 = gaussian(T, n=2000)
        means.append(float(denoise(truth.denoiser, truth.denoiser, x0, seed=0).bound.total.mean()))
    assert means[1] < means[0]


def test_the_excess_in_nats_is_the_difference_of_the_bounds() -> None:
    truth, x0 = gaussian(n=3000)
    wrong = shifted(truth.denoiser, "v", 0.1)
    found = denoise(wrong, truth.denoiser, x0, seed=0)
    difference = found.bound.total - found.best_bound.total
    se = float(difference.std()) / math.sqrt(3000)
    assert float(difference.mean()) == pytest.approx(float(found.nats_by_point.mean()), abs=4 * se)
    assert float(found.nats_by_time.sum()) == pytest.approx(float(found.nats_by_point.mean()))
    # v's mistake w is -sigma w in x0_hat.
    snr = truth.schedule.log_snr.exp()
    sigma = truth.schedule.sigma
    for t in (2, 30):
        expected = float((snr[t - 1] - snr[t]) / 2 * sigma[t] ** 2 * 2 * 0.1**2)
        assert float(found.nats_by_time[t - 1]) == pytest.approx(expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_distance_is_in_units_of_the_prediction(prediction: str) -> None:
    truth, x0 = gaussian()
    kind = PREDICTIONS[prediction]
    found = distance_between(
        shifted(truth.denoiser, prediction, 0.1), truth.denoiser, kind, x0, [1, 20, 60], seed=0
    )
    assert found.shape == (3, len(x0))
    assert found.flatten().tolist() == pytest.approx([0.01] * (3 * len(x0)))


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, x0 = gaussian(T=30)
    wrong = shifted(truth.denoiser, "v", 0.1)
    seen = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        found = denoise(wrong, truth.denoiser, x0, seed=0)
        seen.append(torch.cat([found.by_time.loss, found.bound.total, found.nats_by_point]))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
