import itertools
import math

import numpy as np
import pytest
import torch
from conftest import changed, shipped, shipped_schedule
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ddpm import multistep, runtime, samplers
from ddpm.datasets import SPIRAL, Scaling
from ddpm.errors import UserError
from ddpm.flow import carry, flow_samples
from ddpm.multistep import DPMSolver2M, DPMSolver3M, DPMSolverSDE2M, UniPC
from ddpm.params import Params
from ddpm.process import PREDICTIONS, Denoiser
from ddpm.reverse import Moment, Sampler, Trajectories, draw_samples, reverse
from ddpm.runtime import stream
from ddpm.samplers import DDIM, DDPM, ODE, SAMPLERS, Heun, sampler_of
from ddpm.schedules import Schedule, schedule_of
from ddpm.spacings import SPACINGS, log_snr_at, moments, time_of_log_snr
from ddpm.truth import Truth

# diffusers converts tensors to arrays in a way that NumPy warns of.
OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EVERY_SAMPLER = [
    DDPM(variance="posterior"),
    DDPM(variance="beta"),
    DDPM(variance="analytic"),
    DDIM(eta=0),
    DDIM(eta=0.5),
    DDIM(eta=1),
    Heun(churn=0),
    Heun(churn=0.2),
    DPMSolver2M(),
    DPMSolver3M(),
    DPMSolverSDE2M(),
    UniPC(),
    ODE(tolerance=1e-5),
]


def test_every_kind_of_sampler_is_tested() -> None:
    assert {type(sampler) for sampler in EVERY_SAMPLER} == set(SAMPLERS.values())


def gaussian_denoiser(schedule: Schedule, mean: float, std: float) -> Denoiser:
    """The exact denoiser of data N(mean, std^2 I): the mean of x_0 given x_t."""

    def v(x_t: Tensor, t: Tensor) -> Tensor:
        a, sigma = schedule.levels(float(t))
        variance = a**2 * std**2 + sigma**2
        x0 = mean + a * std**2 / variance * (x_t - a * mean)
        eps = sigma / variance * (x_t - a * mean)
        return a * eps - sigma * x0

    return Denoiser(v, PREDICTIONS["v"], schedule)


def end_of(
    sampler: Sampler,
    denoiser: Denoiser,
    times: list[float],
    monkeypatch: pytest.MonkeyPatch,
    clean: Tensor | None = None,
) -> tuple[float, float]:
    """Mean and variance of x_0 from x_T ~ N(0, 1), without Monte Carlo.

    Each sampler is affine in x_T and its noises here: x_0 = c + g x_T + sum w_k e_k. One row starts
    at 0, one at 1, and each of the others has a 1 for one of the noises.
    """
    rows = 2 + len(times)
    x_T = torch.zeros(rows, 1).double()
    x_T[1] = 1
    calls = itertools.count(2)

    def one_at_a_time(x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.zeros_like(x)
        noise[next(calls)] = 1
        return noise

    clean = torch.zeros(2, 1).double() if clean is None else clean
    ready = sampler.prepared(denoiser, times, clean, seed=0)
    with monkeypatch.context() as patch:
        for module in (samplers, multistep):
            patch.setattr(module, "normal_like", one_at_a_time)
        end = reverse(ready, denoiser, x_T, times, generator=torch.Generator()).x[:, 0]
    weights = end[1:] - end[0]
    return float(end[0]), float(weights.square().sum())


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_sampler_lands_on_the_point_when_data_is_one_point(
    sampler: Sampler, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 50), mean=1.5, std=1e-9)
    times = moments("trailing", denoiser.schedule, steps)
    clean = torch.full((4, 1), 1.5).double()
    mean, variance = end_of(sampler, denoiser, times, monkeypatch, clean)
    # The flow is solved to a tolerance.
    tolerance = 1e-3 if isinstance(sampler, ODE) else 1e-9
    assert mean == pytest.approx(1.5, abs=tolerance)
    assert variance == pytest.approx(0, abs=tolerance**2)


@pytest.mark.parametrize(
    "sampler", [DDPM(variance="posterior"), DDIM(eta=0), DDIM(eta=0.5), DDIM(eta=1)], ids=repr
)
def test_on_the_way_to_one_point_the_spread_is_that_of_the_process(sampler: Sampler) -> None:
    # For known x_0 the posterior is exact: x_s has variance sigma_s^2 at every s.
    schedule = shipped_schedule("cosine", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=0.0)
    x_t = float(schedule.sigma[40]) * torch.ones(1, 2).double()
    for s in (39, 20.5, 5):
        seeded = {"past": [], "generator": torch.Generator().manual_seed(0)}
        q, _ = sampler.step(denoiser, 0 * x_t, 40, s, **seeded)
        seeded["generator"] = torch.Generator().manual_seed(0)
        p, _ = sampler.step(denoiser, x_t, 40, s, **seeded)
        e = torch.randn(1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        variance = float((p - q)[0, 0] ** 2 + (q / e)[0, 0] ** 2)
        assert variance == pytest.approx(schedule.levels(s)[1] ** 2)


@pytest.mark.parametrize("steps", [50, 10])
def test_with_the_variance_beta_standard_normal_data_stay_so_exactly(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last step, without noise, is the denoiser's shrinking.
    schedule = shipped_schedule("linear", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.0, std=1.0)
    times = moments("trailing", schedule, steps)
    _, variance = end_of(DDPM(variance="beta"), denoiser, times, monkeypatch)
    assert variance == pytest.approx(schedule.levels(times[-1])[0] ** 2, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_with_the_analytic_variance_gaussian_data_come_out_of_any_number_of_steps(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule("cosine", 50)
    denoiser = gaussian_denoiser(schedule, mean=0.3, std=0.5)
    clean = 0.3 + 0.5 * torch.randn(100_000, 1, dtype=torch.float64, generator=stream(0, "c"))
    times = moments("trailing", schedule, steps)
    mean, variance = end_of(DDPM(variance="analytic"), denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.3, abs=1e-3)
    assert variance == pytest.approx(0.25, rel=0.02)
    _, small = end_of(DDPM(variance="posterior"), denoiser, times, monkeypatch)
    assert small < 0.24 or steps == 50


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_with_every_step_gaussian_data_come_out(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule("linear", 1000)
    denoiser = gaussian_denoiser(schedule, mean=0.7, std=0.5)
    times = [1000.0] if isinstance(sampler, ODE) else moments("trailing", schedule, 1000)
    clean = 0.7 + 0.5 * torch.randn(2000, 1, dtype=torch.float64, generator=stream(0, "c"))
    mean, variance = end_of(sampler, denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.7, abs=0.005)
    assert math.sqrt(variance) == pytest.approx(0.5, rel=0.01)


FIRST, LAST = 700.0, 60.0


def spiral() -> Denoiser:
    scaling = Scaling(torch.tensor([0.04, -0.11]).double(), 0.577)
    schedule = shipped_schedule("cosine", 1000)
    return Truth.of_curves([(1.0, SPIRAL)], 0.05, scaling, schedule).denoiser


def evenly(schedule: Schedule, steps: int, before: int = 0) -> list[float]:
    """Equal strides in log SNR from FIRST to LAST, and as many before FIRST as asked."""
    first, last = log_snr_at(schedule, FIRST), log_snr_at(schedule, LAST)
    return [
        time_of_log_snr(schedule, first + (last - first) * k / steps)
        for k in range(-before, steps + 1)
    ]


@pytest.mark.parametrize(
    ("sampler", "order", "before"),
    [
        (DDIM(eta=0), 1, 0),
        (Heun(churn=0), 2, 0),
        (DPMSolver2M(), 2, 0),
        (UniPC(), 3, 0),
        # A third-order method wants accurate starting steps.
        (DPMSolver3M(), 3, 2),
    ],
    ids=repr,
)
def test_the_error_falls_with_the_order_of_the_sampler(
    sampler: Sampler, order: int, before: int
) -> None:
    denoiser = spiral()
    generator = torch.Generator()
    start = torch.randn(40, 2, dtype=torch.float64, generator=stream(0, "start"))
    exact = carried(denoiser, start, LAST)
    counts, errors = [20, 40, 80], []
    for steps in counts:
        times = evenly(denoiser.schedule, steps, before)
        past = []
        for t in times[:before]:
            x_t = carried(denoiser, start, t)
            past.append(Moment(t, x_t, denoiser(x_t, t)[0]))
        *way, end = times[before:]
        found = reverse(sampler, denoiser, start, way, generator=generator, end=end, past=past).x
        errors.append(float((found - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order - 0.2 < slope < order + 0.8, errors


def carried(denoiser: Denoiser, x: Tensor, t: float) -> Tensor:
    """Where the flow takes points from FIRST, on either side."""
    return carry(denoiser, denoiser.velocity, x, FIRST, t, tolerance=1e-10, name="exact")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 20, 60])
def test_ddim_with_eta_1_is_ddpm_on_the_same_noise(spacing: str, steps: int) -> None:
    denoiser = gaussian_denoiser(shipped_schedule("cosine", 60), mean=0.3, std=0.6)
    times = moments(spacing, denoiser.schedule, steps)
    x_T = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
    ends = [
        reverse(sampler, denoiser, x_T, times, generator=torch.Generator().manual_seed(2)).x
        for sampler in (DDIM(eta=1), DDPM(variance="posterior"))
    ]
    torch.testing.assert_close(ends[0], ends[1])


def theirs(kind: type, prediction: str, schedule: Schedule, times: list[float], **options):  # noqa: ANN003, ANN201
    """A scheduler of diffusers with our alpha_bar: its own tables are float32.

    Their index is our t - 1, and -1 is our t = 0.
    """
    scheduler = kind(schedule.T, prediction_type=prediction, **options)
    scheduler.alphas_cumprod = schedule.alpha_bar[1:]
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0).double()
    scheduler.set_timesteps(len(times))
    scheduler.timesteps = torch.tensor(times) - 1
    if hasattr(scheduler, "sigmas"):
        levels = [schedule.levels(t) for t in times]
        scheduler.sigmas = torch.tensor([sigma / a for a, sigma in levels] + [0.0]).double()
    return scheduler


@OLD_NUMPY
@pytest.mark.parametrize(
    ("ours", "prediction"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        (DDPM(variance="posterior"), DDPMScheduler, {"variance_type": "fixed_small"}),
        (DDPM(variance="beta"), DDPMScheduler, {"variance_type": "fixed_large"}),
        (DDIM(eta=0.0), DDIMScheduler, {}),
        (DDIM(eta=0.7), DDIMScheduler, {}),
    ],
    ids=repr,
)
def test_every_step_of_one_point_equals_that_of_diffusers(
    sampler: Sampler, kind: type, options: dict[str, str], name: str, ours: str, prediction: str
) -> None:
    T = 100
    schedule = shipped_schedule(name, T)
    times = [float(t) for t in range(T, 0, -5)]
    whole = [int(t) for t in times]
    scheduler = theirs(kind, prediction, schedule, whole, clip_sample=False, **options)
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    for t, s in itertools.pairwise((*whole, 0)):
        said = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        denoiser = Denoiser(lambda x, t, said=said: said, PREDICTIONS[ours], schedule)
        eta = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}
        expected = scheduler.step(
            said, t - 1, x_t, generator=torch.Generator().manual_seed(t), **eta
        )
        x_s, moment = sampler.step(
            denoiser, x_t, t, s, past=[], generator=torch.Generator().manual_seed(t)
        )
        theirs_s, theirs_0 = expected.prev_sample, expected.pred_original_sample
        if s == 0 and options.get("variance_type") == "fixed_large":
            # They leave the noise out of a step from their index 0, we out of a step to our t = 0.
            theirs_s = theirs_0
        for one, other in ((x_s, theirs_s), (moment.x0_hat, theirs_0)):
            scale = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * scale)
        x_t = x_s / x_s.abs().max()


@OLD_NUMPY
@pytest.mark.parametrize(
    ("ours", "prediction"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        (DPMSolver2M(), DPMSolverMultistepScheduler, {"solver_order": 2}),
        # Their "heun" integrates the second step's line as we do; "midpoint" takes its middle.
        (
            DPMSolver3M(),
            DPMSolverMultistepScheduler,
            {"solver_order": 3, "solver_type": "heun"},
        ),
        (
            DPMSolverSDE2M(),
            DPMSolverMultistepScheduler,
            {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        ),
        (UniPC(), UniPCMultistepScheduler, {"solver_order": 2}),
    ],
    ids=repr,
)
def test_every_step_that_looks_back_equals_that_of_diffusers(
    sampler: Sampler, kind: type, options: dict[str, object], name: str, ours: str, prediction: str
) -> None:
    # Real times would do for us; theirs are whole. They step in float32: from T itself, where the
    # cosine leaves 5e-5 of the data, that would be seen.
    T = 100
    schedule = shipped_schedule(name, T)
    times = list(range(T - 5, 0, -5))
    scheduler = theirs(kind, prediction, schedule, times, final_sigmas_type="zero", **options)
    denoiser = gaussian_mixture(schedule, ours)
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    ours_x, past = x_t, []
    for t, s in itertools.pairwise((*times, 0)):
        noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        said = denoiser.predict(x_t, t)
        extra = {"variance_noise": noise} if "algorithm_type" in options else {}
        expected = scheduler.step(said, t - 1, x_t, **extra).prev_sample
        x_s, moment = sampler.step(
            denoiser, ours_x, t, s, past=past, generator=torch.Generator().manual_seed(t)
        )
        if isinstance(sampler, DPMSolver3M) and len(past) >= 2 and s > 0:
            # Their second difference enters at half its weight: add the other half.
            expected = expected + half_of_the_bend(schedule, [*past, moment][-3:], s)
        scale = float(expected.abs().max())
        torch.testing.assert_close(x_s, expected, rtol=1e-5, atol=1e-5 * scale)
        x_t, ours_x, past = expected, x_s, [*past, moment][-2:]


def gaussian_mixture(schedule: Schedule, prediction: str) -> Denoiser:
    """A denoiser that is not linear: the exact one of five points, in each kind of prediction."""
    points = torch.randn(5, 2, dtype=torch.float64, generator=stream(0, "five"))
    exact = Truth.of_points(points, schedule).denoiser
    kind = PREDICTIONS[prediction]

    def function(x: Tensor, t: Tensor) -> Tensor:
        return kind.target(*exact(x, float(t)), *schedule.levels(float(t)))

    return Denoiser(function, kind, schedule, torch.float64)


def half_of_the_bend(schedule: Schedule, last: list[Moment], s: float) -> Tensor:
    """Half of what the second difference adds to the step to s, from its formula alone."""
    at = [log_snr_at(schedule, one.t) / 2 for one in last]
    h = log_snr_at(schedule, s) / 2 - at[2]
    r = [(b - a) / h for a, b in itertools.pairwise(at)]
    near = (last[2].x0_hat - last[1].x0_hat) / r[1]
    far = (last[1].x0_hat - last[0].x0_hat) / r[0]
    second = (near - far) / (r[0] + r[1])
    integral = 1 - 2 / h + 2 * (1 - math.exp(-h)) / h**2
    return schedule.levels(s)[0] * integral * second / 2


@OLD_NUMPY
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_every_step_of_heun_equals_that_of_diffusers(name: str) -> None:
    # They work on y = x / sqrt(alpha_bar), and ask twice a step, each time as a step of its own.
    T = 100
    schedule = shipped_schedule(name, T)
    times = list(range(T - 5, 0, -5))
    scheduler = theirs(HeunDiscreteScheduler, "epsilon", schedule, times)
    noise_levels = [sigma / a for a, sigma in (schedule.levels(t) for t in times)]
    doubled = [noise_levels[0], *(level for one in noise_levels[1:] for level in (one, one)), 0.0]
    scheduler.sigmas = torch.tensor(doubled).double()
    asked = [times[0], *(t for one in times[1:] for t in (one, one))]
    scheduler.timesteps = torch.tensor(asked).double() - 1
    denoiser = gaussian_mixture(schedule, "eps")
    x_t = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, _ = schedule.levels(times[0])
    y, k = x_t / a, 0
    for t, s in itertools.pairwise((*times, 0)):
        x_s, _ = Heun(churn=0).step(denoiser, x_t, t, s, past=[], generator=torch.Generator())
        for _ in range(2 if s > 0 else 1):
            at = schedule.levels(asked[k])[0]
            said = denoiser.predict(at * y, asked[k])
            y = scheduler.step(said, scheduler.timesteps[k], y).prev_sample
            k += 1
        x_t = x_s
        expected = schedule.levels(s)[0] * y
        torch.testing.assert_close(
            x_s, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        (DDPM(variance="posterior"), 9),
        (DDIM(eta=0), 9),
        (Heun(churn=0), 17),
        (Heun(churn=0.1), 17),
        (DPMSolver2M(), 9),
        (DPMSolver3M(), 9),
        (DPMSolverSDE2M(), 9),
        (UniPC(), 9),
    ],
    ids=repr,
)
def test_the_loop_counts_what_the_denoiser_was_asked(sampler: Sampler, evaluations: int) -> None:
    schedule = shipped_schedule("linear", 50)
    plain, asked = gaussian_denoiser(schedule, 0.0, 0.5), []

    def function(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return plain.function(x, t)

    denoiser = Denoiser(function, plain.prediction, schedule)
    times = moments("trailing", schedule, 9)
    x_T = torch.zeros(3, 2).double()
    arrival = reverse(sampler, denoiser, x_T, times, generator=torch.Generator())
    assert arrival.evaluations == len(asked) == evaluations
    assert sampler.steps_within(evaluations) == 9
    assert sampler.steps_within(evaluations + 1) >= 9


def test_the_adaptive_solver_counts_too_and_is_the_flow() -> None:
    schedule = shipped_schedule("cosine", 100)
    denoiser = gaussian_denoiser(schedule, 0.4, 0.5)
    x_T = torch.randn(7, 2, dtype=torch.float64, generator=stream(0, "x"))
    arrival = reverse(ODE(tolerance=1e-7), denoiser, x_T, [100.0], generator=torch.Generator())
    assert arrival.evaluations > 20
    expected = flow_samples(denoiser, x_T, noise=0.5, tolerance=1e-9)
    torch.testing.assert_close(arrival.x, expected, rtol=0, atol=1e-5)


def test_what_is_deterministic_says_so() -> None:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 50), 0.2, 0.5)
    times = moments("trailing", denoiser.schedule, 5)
    x_T = torch.ones(2, 2).double()
    for sampler in EVERY_SAMPLER:
        ready = sampler.prepared(denoiser, times, x_T, seed=0)
        ends = [
            reverse(ready, denoiser, x_T, times, generator=torch.Generator().manual_seed(seed)).x
            for seed in (0, 1)
        ]
        assert torch.equal(*ends) == sampler.deterministic, sampler


def drawn(
    sampler: Sampler, n: int, block: int, kept: int = 4, frames: int = 3
) -> tuple[Tensor, Trajectories]:
    denoiser = gaussian_denoiser(shipped_schedule("linear", 30), mean=0.5, std=0.5)
    times = moments("trailing", denoiser.schedule, 10)
    trajectories = Trajectories(times, frames=frames, points=kept)
    samples = draw_samples(
        sampler,
        denoiser,
        times,
        n=n,
        block=block,
        seed=0,
        device=torch.device("cpu"),
        clean=torch.zeros(5, 2),
        trajectories=trajectories,
    ).x
    return samples, trajectories


@pytest.mark.parametrize("sampler", EVERY_SAMPLER, ids=repr)
def test_the_number_of_cores_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler
) -> None:
    seen = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        samples, trajectories = drawn(sampler, n=23, block=5, kept=12)
        seen.append((samples, trajectories.x, trajectories.x0_hat))
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


@pytest.mark.parametrize("block", [4, 5, 100])
def test_trajectories_end_in_the_samples_and_start_in_noise(block: int) -> None:
    samples, trajectories = drawn(DDPM(variance="posterior"), n=13, block=block, kept=9, frames=50)
    assert samples.shape == (13, 2)
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0
    assert all(t > s for t, s in itertools.pairwise(trajectories.t))
    assert bool(trajectories.x.isfinite().all())
    assert torch.equal(trajectories.x[-1], samples[:9])
    assert torch.equal(trajectories.x0_hat[-1], samples[:9])


def test_no_more_frames_are_kept_than_asked_for() -> None:
    _, trajectories = drawn(DDIM(eta=0), n=3, block=3, kept=2, frames=4)
    assert 2 <= len(trajectories.t) <= 4
    assert trajectories.t[0] == 30
    assert trajectories.t[-1] == 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_named_sampler_can_be_had(params: Params, name: str) -> None:
    assert isinstance(
        sampler_of(params.model_copy(update={"sampler": name}), schedule_of(params)), SAMPLERS[name]
    )


def test_an_unknown_sampler_is_refused_with_the_choices(params: Params) -> None:
    with pytest.raises(UserError, match=r"sampler is 'euler' but should be one of ddpm, ddim, heu"):
        sampler_of(params.model_copy(update={"sampler": "euler"}), schedule_of(params))


def without_signal(params: Params, **changes: str) -> Params:
    diffusion = params.diffusion.model_copy(update={"zero_terminal_snr": True})
    return params.model_copy(update={"diffusion": diffusion, **changes})


@pytest.mark.parametrize("sampler", [*EVERY_SAMPLER[:6], ODE(tolerance=1e-6)], ids=repr)
@pytest.mark.parametrize("name", ["linear", "cosine", "first_principles"])
def test_without_signal_at_the_end_gaussian_data_come_out(
    sampler: Sampler, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = shipped_schedule(name, 1000).without_signal_at_end()
    denoiser = gaussian_denoiser(schedule, mean=0.7, std=0.5)
    times = [1000.0] if isinstance(sampler, ODE) else moments("trailing", schedule, 1000)
    clean = 0.7 + 0.5 * torch.randn(2000, 1, dtype=torch.float64, generator=stream(0, "c"))
    mean, variance = end_of(sampler, denoiser, times, monkeypatch, clean)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert math.sqrt(variance) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc"])
def test_what_works_in_log_snr_is_refused_where_it_is_infinite(params: Params, name: str) -> None:
    changed_params = without_signal(params, sampler=name)
    with pytest.raises(
        UserError, match=rf"sampler {name} works in log SNR but with diffusion\.zero"
    ):
        sampler_of(changed_params, schedule_of(changed_params))


def test_eps_says_nothing_where_there_is_no_signal(params: Params) -> None:
    with pytest.raises(UserError, match=r"zero_terminal_snr is true but prediction is eps, which"):
        schedule_of(without_signal(params, prediction="eps"))
    values = changed(shipped(), **{"diffusion.zero_terminal_snr": True, "diffusion.T": 1})
    values = changed(values, **{"sample.steps": 1, "schedule": "cosine"})
    with pytest.raises(
        UserError, match=r"diffusion\.T is 1; raise diffusion\.T in params\.yaml to"
    ):
        schedule_of(Params.model_validate(values))


def test_the_solver_stops_early_where_the_flow_does_not_reach_the_data() -> None:
    # One point as data, exactly: at t = 0 its velocity is not finite.
    schedule = shipped_schedule("linear", 100)
    points = torch.tensor([[0.5, -0.25]]).double()
    denoiser = Truth.of_points(points, schedule).denoiser
    x_T = torch.randn(6, 2, dtype=torch.float64, generator=stream(0, "x"))
    for times in ([100.0], [100.0, 1.0], [100.0, 0.5]):
        end = reverse(ODE(tolerance=1e-4), denoiser, x_T, times, generator=torch.Generator())
        torch.testing.assert_close(end.x, points.expand(6, 2))


def test_the_second_order_of_heun_keeps_digits_where_little_is_left_of_the_data() -> None:
    schedule = shipped_schedule("cosine", 1000)
    denoiser = gaussian_denoiser(schedule, 0.3, 0.5)
    times = moments("trailing", schedule, 10)
    x_T = torch.randn(200, 2, generator=stream(0, "x"))
    ends = [
        reverse(Heun(churn=0), denoiser, x, times, generator=torch.Generator()).x.double()
        for x in (x_T, x_T.double())
    ]
    # What is left is float32's rounding of the slopes over a first step of 2e4 in sigma_ve.
    assert float((ends[0] - ends[1]).abs().median()) < 2e-3
