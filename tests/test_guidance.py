"""Guidance against closed forms: a Gaussian class inside a broader Gaussian.

With p(x | c) = N(0, 1) and p(x) = N(0, 2) every guided denoiser is linear in x, so that the
variance of the samples is known (derived in docs/guidance.md).
"""

import math

import pytest
import torch
from conftest import shipped_schedule
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.settings import validate
from ddpm.diffusion.denoiser import Denoiser, with_jumps
from ddpm.diffusion.guidance import GUIDANCE, Interval, Sources, guided, guided_between
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.tangents import prediction_with_jacobian
from ddpm.flow.likelihood import flow_with_log_density, log_likelihood, log_normal
from ddpm.networks.mlp import ResidualMLPSettings
from ddpm.reference.distribution import ExactDistribution
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.multistep import DPMSolver2M
from ddpm.sampling.one_step import DDPM
from ddpm.sampling.output_density import output_density
from ddpm.sampling.spacings import sampling_times

SCHEDULE = shipped_schedule("linear", 1000)
# sigma_ve^2 at T, where samplers start.
START = math.exp(-SCHEDULE.log_snr_at(1000))


def gaussian(variance: float) -> Denoiser:
    """The exact denoiser of N(0, variance I)."""

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        a, sigma = SCHEDULE.levels(float(t))
        return a * sigma * (1 - variance) / (a**2 * variance + sigma**2) * x_t

    return Denoiser(velocity, PREDICTIONS["v"], SCHEDULE, torch.float64)


CONDITIONAL, NULL = gaussian(1.0), gaussian(2.0)


def sampled_variance(denoiser: Denoiser, times: list[float]) -> float:
    """Variance of the output of a linear, deterministic sampler, from one point."""
    x_T = torch.ones(1, 2, dtype=torch.float64)
    generator = torch.Generator()
    x = run_sampler(DPMSolver2M(), denoiser, x_T, times, generator=generator).x
    return float(x[0, 0]) ** 2


FINE = sampling_times("log_snr", SCHEDULE, 500)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 5.0])
def test_the_flow_of_classifier_free_guidance_has_the_known_variance(scale: float) -> None:
    denoiser = guided(CONDITIONAL, NULL, scale)
    expected = (2 * (1 + START) / (2 + START)) ** (1 - scale)
    if scale == 3:
        assert expected == pytest.approx(0.250020, abs=1e-6)
    assert sampled_variance(denoiser, FINE) == pytest.approx(expected, rel=1e-3)
    x_T = torch.ones(1, 2, dtype=torch.float64)
    x, log_density = flow_with_log_density(denoiser, x_T, 1000, tolerance=1e-7)
    assert float(x[0, 0]) ** 2 == pytest.approx(expected, rel=1e-4)
    # The density of a linear map's output is Gaussian.
    known = -x.square().sum(1) / (2 * expected) - math.log(2 * math.pi * expected)
    torch.testing.assert_close(log_density, known, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        log_likelihood(denoiser, x, 0, tolerance=1e-7), known, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("variance", "expected"), [("posterior", 0.382), ("beta", 0.388)])
def test_ddpm_has_another_variance_than_the_flow(variance: str, expected: float) -> None:
    denoiser = guided(CONDITIONAL, NULL, 3.0)
    generator = stream(0, "ddpm")
    x_T = torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    times = sampling_times("trailing", SCHEDULE, 1000)
    sampler = DDPM.model_validate({"variance": variance})
    x = run_sampler(sampler, denoiser, x_T, times, generator=generator).x
    limit = (2 - 2 ** (2 - 2 * 3.0)) / (2 * 3.0 - 1)
    assert float(x.var()) == pytest.approx(limit, rel=0.02)
    assert float(x.var()) == pytest.approx(expected, rel=0.015)


def test_guidance_below_a_noise_level_can_reach_the_tilted_variance() -> None:
    # Here exactly the tilted 2 / (scale + 1).
    high = math.sqrt(2)
    denoiser = guided_between(CONDITIONAL, NULL, 3.0, 0.0, math.sqrt(high))
    times = with_jumps(FINE, denoiser)
    assert len(times) == len(FINE) + 1
    assert ((2 + high) / (2 * (1 + high))) ** 2 == pytest.approx(0.5)
    assert sampled_variance(denoiser, times) == pytest.approx(0.5, rel=1e-3)


def test_a_window_with_another_scale_multiplies_the_variance() -> None:
    low, high, scale, inside = 0.04, 0.8, 3.0, -1.0
    window = (math.sqrt(low), math.sqrt(high))
    denoiser = guided_between(CONDITIONAL, NULL, inside, *window, outside=scale)
    times = with_jumps(FINE, denoiser)
    ratio = (1 + low) * (2 + high) / ((2 + low) * (1 + high))
    expected = (2 * (1 + START) / (2 + START)) ** (1 - scale) * ratio ** (inside - scale)
    assert sampled_variance(denoiser, times) == pytest.approx(expected, rel=1e-3)
    assert len(times) == len(FINE) + 2
    # A step that does not end where the window does is wrong by more than that.
    coarse = sampling_times("log_snr", SCHEDULE, 25)
    errors = [
        abs(sampled_variance(denoiser, each) / expected - 1)
        for each in (coarse, with_jumps(coarse, denoiser))
    ]
    assert errors[1] < errors[0] / 2
    # The flow's solver ends its steps there by itself, in both directions.
    x_T = torch.ones(1, 2, dtype=torch.float64)
    x, log_density = flow_with_log_density(denoiser, x_T, 1000, tolerance=1e-7)
    assert float(x[0, 0]) ** 2 == pytest.approx(expected, rel=1e-4)
    back = log_likelihood(denoiser, x, 0, tolerance=1e-7)
    torch.testing.assert_close(back, log_density, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_formula_is_the_same_for_every_prediction_type(kind: str) -> None:
    prediction = PREDICTIONS[kind]

    def converted(denoiser: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            levels = SCHEDULE.levels(float(t))
            return prediction.target(*denoiser(x, float(t)), *levels)

        return Denoiser(function, prediction, SCHEDULE)

    x = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "x"))
    combined = guided(converted(CONDITIONAL), converted(NULL), 2.5)(x, 400.0)
    for one, main, null in zip(combined, CONDITIONAL(x, 400.0), NULL(x, 400.0), strict=True):
        torch.testing.assert_close(one, null + 2.5 * (main - null))


def test_the_jacobian_is_guided_like_the_prediction() -> None:
    denoiser = guided(CONDITIONAL, NULL, 3.0)
    x = torch.randn(4, 2, dtype=torch.float64, generator=stream(0, "x"))
    for t in (20.0, 300.0, 900.0):
        time = torch.tensor([t], dtype=torch.float64)
        own = prediction_with_jacobian(denoiser.function, x, time)
        by_autograd = prediction_with_jacobian(lambda x, t: denoiser.function(x, t), x, time)
        for a, b in zip(own, by_autograd, strict=True):
            torch.testing.assert_close(a, b)


def test_the_output_density_of_a_guided_sampler_is_gaussian() -> None:
    denoiser = guided(CONDITIONAL, NULL, 3.0)
    x_T = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    output = output_density(DPMSolver2M(), denoiser, x_T, sampling_times("log_snr", SCHEDULE, 10))
    factor = output.x / x_T
    assert float(factor.std()) < 1e-12
    expected = log_normal(x_T) - 2 * float(factor[0, 0].log())
    torch.testing.assert_close(output.log_density, expected)


def test_one_network_with_two_labels_is_evaluated_in_one_doubled_batch() -> None:
    sizes = {"width": 16, "blocks": 1, "fourier_features": 4, "time_features": 4}
    settings = ResidualMLPSettings(**sizes, fourier_scale=0.3)
    networks = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        network = settings.create(1000, classes=3, generator=generator)
        torch.nn.init.normal_(network.read_out.weight, generator=generator)
        networks.append(network)
    first, second = (
        {
            label: Denoiser(network.given(label), PREDICTIONS["v"], SCHEDULE, torch.float32)
            for label in (0, 2, None)
        }
        for network in networks
    )
    batches: list[int] = []
    networks[0].read_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300.0], dtype=torch.float64)
    for main, guide in ((first[0], first[None]), (first[2], first[0]), (first[0], second[0])):
        denoiser = guided(main, guide, 2.5)
        batches.clear()
        prediction = denoiser.predict(x, 300.0)
        assert batches == ([50] if guide is second[0] else [100])
        assert denoiser.evaluations == 2
        expected = 2.5 * main.predict(x, 300.0) - 1.5 * guide.predict(x, 300.0)
        torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)
        slope = prediction_with_jacobian(denoiser.function, x, t)[1]
        slopes = [
            prediction_with_jacobian(one.function, x.float(), t.float())[1] for one in (main, guide)
        ]
        expected = (2.5 * slopes[0] - 1.5 * slopes[1]).double()
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)
        batches.clear()
        precise = denoiser.double().predict(x, 300.0)
        assert batches == ([50] if guide is second[0] else [100])
        assert networks[0].read_in.weight.dtype == torch.float32
        torch.testing.assert_close(precise, prediction, rtol=1e-4, atol=1e-4)


def test_both_denoisers_are_counted_where_both_are_evaluated() -> None:
    x_T = torch.zeros(3, 2, dtype=torch.float64)
    times = sampling_times("log_snr", SCHEDULE, 20)
    counts = []
    whole = guided(CONDITIONAL, NULL, 3.0)
    inside = guided_between(CONDITIONAL, NULL, 3.0, 0.1, 1.0)
    window = guided_between(CONDITIONAL, NULL, 3.0, 0.1, 1.0, outside=2.0)
    for denoiser in (whole, inside, window):
        ends = with_jumps(times, denoiser)
        result = run_sampler(DPMSolver2M(), denoiser, x_T, ends, generator=torch.Generator())
        counts.append(result.evaluations)
    levels = [math.exp(-SCHEDULE.log_snr_at(t) / 2) for t in with_jumps(times, inside)]
    guided_steps = sum(0.1 * 1.0001 < level < 1.0001 for level in levels)
    assert len(levels) == 22
    assert counts == [40, 22 + guided_steps, 44]


@pytest.mark.parametrize(
    ("low", "high", "scales"),
    [
        (0.0, math.inf, [3]),
        (1e6, 1e7, [1]),
        (0.0, 1.0, [1, 3]),
        (1.0, 1e9, [3, 1]),
    ],
)
def test_levels_that_no_time_reaches_are_no_jumps(
    low: float, high: float, scales: list[float]
) -> None:
    denoiser = guided_between(CONDITIONAL, NULL, 3.0, low, high)
    pieces = [piece.denoiser for piece in denoiser.pieces] or [denoiser]
    assert [3 if piece.evaluations == 2 else 1 for piece in pieces] == scales


def test_a_scale_of_one_is_the_conditional_alone_and_of_zero_the_null_alone() -> None:
    x = torch.randn(4, 2, dtype=torch.float64, generator=stream(0, "x"))
    for scale, alone in ((1.0, CONDITIONAL), (0.0, NULL)):
        torch.testing.assert_close(guided(CONDITIONAL, NULL, scale)(x, 300.0), alone(x, 300.0))


@pytest.mark.parametrize("name", GUIDANCE)
def test_every_kind_is_applied_by_its_name(name: str) -> None:
    values = {"scale": 2.0, "low": 0.1, "high": 2.0, "outside": 1.0}
    kind = GUIDANCE[name]
    settings = kind.model_validate({key: values[key] for key in kind.model_fields})
    worse = gaussian(3.0)
    x = torch.randn(4, 2, dtype=torch.float64, generator=stream(0, "x"))
    main, null, guide = (one.velocity(x, 300.0) for one in (CONDITIONAL, NULL, worse))
    expected = {
        "none": main,
        "cfg": null + 2 * (main - null),
        "interval": null + 2 * (main - null),
        "autoguidance": guide + 2 * (main - guide),
    }
    denoiser = settings.apply(Sources(CONDITIONAL, NULL, worse))
    torch.testing.assert_close(denoiser.velocity(x, 300.0), expected[name])
    if name == "autoguidance":
        with pytest.raises(UserError, match="there is no guide"):
            settings.apply(Sources(CONDITIONAL, NULL))


def test_what_cannot_be_combined_is_refused() -> None:
    for scale in (math.nan, math.inf):
        with pytest.raises(
            UserError, match=r"the guidance scale is (nan|inf) but should be finite"
        ):
            guided(CONDITIONAL, NULL, scale)
    other = ExactDistribution.from_points(torch.zeros(1, 2), shipped_schedule("cosine", 1000))
    with pytest.raises(UserError, match="different schedules"):
        guided(CONDITIONAL, other.denoiser, 2.0)
    eps = Denoiser(lambda x, _: x, PREDICTIONS["eps"], SCHEDULE)
    with pytest.raises(UserError, match="predict different things"):
        guided(CONDITIONAL, eps, 2.0)
    values = {"scale": 2, "low": 1, "high": 0.5, "outside": 1}
    with pytest.raises(UserError, match=r"low is 1 but should be below high, 0[.]5"):
        validate(Interval, values, "guidances.interval")


def test_correctors_reach_the_distribution_of_the_guided_score() -> None:
    # At every noise level the guided score is that of a Gaussian; at t = 0 of the tilted one.
    denoiser, scale = guided(CONDITIONAL, NULL, 3.0), 3.0
    generator = stream(0, "correctors")
    x_T = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    times = sampling_times("log_snr", SCHEDULE, 100)
    variances = []
    for correctors in (0, 10):
        sampler = DDPM(variance="posterior", correctors=correctors, corrector_step=0.2)
        assert sampler.steps_within(100 + 99 * correctors) == 100
        result = run_sampler(sampler, denoiser, x_T, times, generator=generator)
        assert result.evaluations == 2 * (100 + 99 * correctors)
        variances.append(float(result.x.var()))
    assert variances[1] == pytest.approx(2 / (scale + 1), rel=0.04)
    assert abs(variances[0] - 0.5) > 0.08


def test_a_guided_denoiser_can_be_guided_again_and_keeps_its_jumps() -> None:
    inner = guided_between(CONDITIONAL, NULL, 3.0, 0.1, 1.0)
    worse = gaussian(3.0)
    x = torch.randn(4, 2, dtype=torch.float64, generator=stream(0, "x"))
    for outer in (guided(inner, worse, 2.0), guided(worse, inner, -1.0)):
        assert with_jumps([1000.0], outer) == with_jumps([1000.0], inner)
        for t in (20.0, 200.0, 900.0):
            v = worse.velocity(x, t) + 2 * (inner.velocity(x, t) - worse.velocity(x, t))
            torch.testing.assert_close(outer.velocity(x, t), v)
            torch.testing.assert_close(outer.before(t).velocity(x, t), v)
    with pytest.raises(UserError, match=r"low is 2 but should be below high, 1"):
        guided_between(CONDITIONAL, NULL, 3.0, 2.0, 1.0)
