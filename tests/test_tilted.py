import math

import pytest
import torch
from conftest import shipped_schedule
from torch import Tensor

import ddpm
from ddpm.core.compute import sobol_normal, stream
from ddpm.core.errors import UserError
from ddpm.data.datasets import Dataset, Moons, Tree
from ddpm.data.scaling import Scaling
from ddpm.diffusion.guidance import guided
from ddpm.diffusion.tangents import prediction_with_jacobian
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.tilted import TiltedDistribution
from ddpm.sampling.one_step import ODE
from ddpm.studies.guidance import GuidanceStudy, neighbour_entropies

SCALING = Scaling(torch.tensor([0.0, 0.1]).double(), 0.6)


def exact_of(dataset: Dataset) -> ExactDistribution:
    return ExactDistribution.from_dataset(dataset, SCALING, shipped_schedule("linear", 1000))


MOONS = exact_of(Moons(noise=0.15))
TREE = exact_of(Tree(noise=0.06))


def study_of(tilted: TiltedDistribution, **sizes: int) -> GuidanceStudy:
    dataset = {MOONS: Moons(noise=0.15), TREE: Tree(noise=0.06)}[tilted.exact]
    return GuidanceStudy(tilted, dataset, SCALING, **sizes)


@pytest.mark.parametrize(("scale", "reference"), [(1.0, MOONS.given(0)), (0.0, MOONS)])
def test_at_scale_one_or_zero_it_is_the_conditional_or_the_whole(
    scale: float, reference: ExactDistribution
) -> None:
    tilted = TiltedDistribution(MOONS, 0, scale)
    x = reference.sample(40, 0, generator=stream(0, "x"))
    torch.testing.assert_close(
        tilted.log_density(x), reference.log_density(x, 0), rtol=0, atol=1e-6
    )
    surprise = -reference.log_density(reference.sample(20_000, 0, generator=stream(0, "y")), 0)
    error = 4 * float(surprise.std()) / math.sqrt(20_000)
    assert tilted.entropy == pytest.approx(float(surprise.mean()), abs=error)
    # Diffused, it is the distribution of x_t: by the rule around each point, and by the grid.
    for t in (1.0, 15.0, 40.0, 200.0, 1000.0):
        x_t = reference.sample(40, t, generator=stream(0, f"{t}"))
        time = torch.tensor([t], dtype=torch.float64)
        ours = prediction_with_jacobian(tilted.denoiser.function, x_t, time)
        known = prediction_with_jacobian(reference.denoiser.function, x_t, time)
        torch.testing.assert_close(ours[0], known[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours[1], known[1], rtol=0, atol=1e-2)


def test_its_normaliser_and_means_do_not_depend_on_the_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = []
    for spacing in (1 / 3, 1 / 5):
        monkeypatch.setattr("ddpm.reference.tilted._SPACING", spacing)
        tilted = TiltedDistribution(TREE, 1, 3.0)
        x = TREE.given(1).sample(20, 0, generator=stream(0, "x"))
        results.append((tilted.log_density(x), tilted.entropy))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-5)


def test_its_true_score_leads_to_it_and_guidance_does_not() -> None:
    tilted = TiltedDistribution(MOONS, 0, 3.0)
    study = study_of(tilted, sets=4, points=64, seed=0)
    flow = ODE(tolerance=1e-4)
    control, _ = study.density(flow, tilted.denoiser, [1000.0])
    assert abs(control.to_tilted.value) < 2e-3
    assert control.entropy.value == pytest.approx(tilted.entropy, abs=0.02)
    with_guidance, _ = study.density(
        flow, guided(MOONS.given(0).denoiser, MOONS.denoiser, 3.0), [1000.0]
    )
    # An independent prototype: 0.71 nats.
    assert with_guidance.to_tilted.value == pytest.approx(0.71, abs=0.02)
    plain, _ = study.density(flow, MOONS.given(0).denoiser, [1000.0])
    assert abs(plain.to_conditional.value) < 1e-3
    to_tilted, se = plain.to_tilted
    assert to_tilted == pytest.approx(study.conditional_to_tilted(), abs=4 * se)
    assert plain.outside.value == pytest.approx(0.01, abs=0.01)
    assert plain.along.value == pytest.approx(0.5, abs=0.03)
    # The ends of a half circle are nearest to points beyond them, in two dimensions.
    assert 1 < plain.across.value < 1.3


def test_the_reverse_divergence_vanishes_without_guidance_and_finds_lost_modes() -> None:
    one = study_of(TiltedDistribution(MOONS, 0, 1.0), sets=2, points=16, seed=0)
    same, ratio = one.reverse(MOONS.given(0).denoiser, tolerance=1e-4)
    assert same.from_tilted == pytest.approx(0, abs=2e-3)
    assert same.from_tilted_median == pytest.approx(0, abs=2e-3)
    assert float(ratio.nanmean().abs()) < 0.05
    assert one.tilted.mean(ratio.nan_to_num()) == pytest.approx(same.from_tilted, abs=1e-4)
    three = study_of(TiltedDistribution(TREE, 1, 3.0), sets=2, points=16, seed=0)
    lost, _ = three.reverse(guided(TREE.given(1).denoiser, TREE.denoiser, 3.0), tolerance=1e-3)
    assert lost.from_tilted > 8 > lost.from_tilted_median > 1


def test_the_standard_errors_are_those_of_independent_sets() -> None:
    means, errors = [], []
    tilted = TiltedDistribution(MOONS, 0, 2.0)
    denoiser = guided(MOONS.given(0).denoiser, MOONS.denoiser, 2.0)
    times = ddpm.sampling_times("log_snr", MOONS.schedule, 10)
    for seed in range(8):
        study = study_of(tilted, sets=8, points=32, seed=seed)
        nats, _ = study.density(ddpm.DPMSolver2M(), denoiser, times)
        means.append(nats.to_tilted.value)
        errors.append(nats.to_tilted.se)
    scatter = float(torch.tensor(means).std())
    reported = float(torch.tensor(errors).square().mean().sqrt())
    assert 0.4 < scatter / reported < 2


def test_sobol_points_are_normal_and_more_even_than_random_ones() -> None:
    points = torch.stack([sobol_normal(256, seed) for seed in range(20)])
    assert points.isfinite().all()
    assert float(points.square().mean()) == pytest.approx(1, abs=0.01)
    assert float(points.mean(1).std()) < 0.2 / math.sqrt(256)


def test_the_nearest_neighbour_entropy_is_that_of_a_gaussian() -> None:
    x: Tensor = torch.randn(8000, 2, dtype=torch.float64, generator=stream(0, "x"))
    for scale in (1, 0.1):
        entropy = float(neighbour_entropies(scale * x).mean())
        assert entropy == pytest.approx(math.log(2 * math.pi * math.e * scale**2), abs=0.06)


def test_what_has_no_tilted_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="the label is 2 but should be 0 to 1"):
        TiltedDistribution(MOONS, 2, 3.0)
    with pytest.raises(UserError, match="the noise is 0"):
        TiltedDistribution(exact_of(Moons(noise=0.0)), 0, 3.0)


def test_drawn_samples_are_measured_like_those_whose_density_is_known() -> None:
    tilted = TiltedDistribution(MOONS, 0, 3.0)
    study = study_of(tilted, sets=8, points=128, seed=0)
    denoiser = guided(MOONS.given(0).denoiser, MOONS.denoiser, 3.0)
    times = ddpm.sampling_times("log_snr", MOONS.schedule, 30)
    by_density, _ = study.density(ddpm.DPMSolver2M(), denoiser, times)
    by_neighbours, _ = study.drawn(ddpm.DPMSolver2M(), denoiser, times)
    for name in ("to_tilted", "to_conditional", "entropy"):
        estimate, se = getattr(by_neighbours, name)
        assert 0.01 < se < 0.08
        assert estimate == pytest.approx(getattr(by_density, name).value, abs=3 * se)
    assert by_neighbours.strays == 0
    assert by_neighbours.log_density.value > 2 * by_neighbours.log_density.se
    assert by_neighbours.wrong_class.value == pytest.approx(by_density.wrong_class.value)
    assert by_neighbours.energy_to_tilted > 0.01
    points = tilted.sample(20_000, generator=stream(0, "tilted"))
    surprise = -tilted.log_density(points)
    error = 4 * float(surprise.std()) / math.sqrt(len(points)) + 0.01
    assert float(surprise.mean()) == pytest.approx(tilted.entropy, abs=error)


def test_samples_of_another_class_are_strays_and_those_of_the_class_are_not() -> None:
    study = study_of(TiltedDistribution(MOONS, 0, 1.0), sets=8, points=128, seed=0)
    times = ddpm.sampling_times("log_snr", MOONS.schedule, 30)
    own, _ = study.drawn(ddpm.DPMSolver2M(), MOONS.given(0).denoiser, times)
    other, _ = study.drawn(ddpm.DPMSolver2M(), MOONS.given(1).denoiser, times)
    assert own.strays < 0.01 < 0.3 < other.strays
    assert abs(own.log_density.value) < 4 * own.log_density.se
    assert other.log_density.value < -5


def test_a_scale_without_a_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="reaches to the edge of the grid"):
        print(TiltedDistribution(MOONS, 0, -5.0).weights)
