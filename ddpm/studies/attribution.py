"""Attributes the error of the samples to the network or to the sampler.

Each is replaced in turn by one without error. With the exact denoiser in place of the network,
only the sampler's error remains; with a converged solver in place of the sampler, only the
network's. The two need not add up to the error of the samples. With both replaced, the error of the
schedule remains: x_T is not quite noise.
"""

import itertools
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import stream
from ddpm.core.params import MeasureSamplesSettings
from ddpm.diffusion.denoiser import Denoiser
from ddpm.flow.probability_flow import flow_samples
from ddpm.reference.distances import DISTANCES
from ddpm.reference.estimates import Mean, estimate_distances
from ddpm.reference.log_density import LogDensityMeasure
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.sampler import Sampler

Points = Float64[Tensor, "n 2"]

SAMPLER_ALONE, NETWORK_ALONE, BOTH = "exact_sampler", "network_solver", "network_sampler"
NEITHER = "exact_solver"


def sample_combinations(
    model: ModelUnderTest,
    sampler: Sampler,
    times: list[float],
    samples: Points,
    *,
    block: int,
    tolerance: float,
) -> dict[str, Points]:
    """Draw as many samples with each other combination of a denoiser and a method.

    The denoiser is the network or the exact one; the method is the sampler or a converged solver.

    Args:
        model: The model, and the exact distribution.
        sampler: The sampler whose error is measured.
        times: Decreasing times of its steps.
        samples: Samples of the network by this sampler, data units.
        block: Points sampled at once.
        tolerance: Tolerance of the converged solver.

    Returns:
        Samples in data units by the name of the combination, with `samples` among them.
    """
    n = len(samples)
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=stream(model.seed, "attribute/solver"))

    def by_solver(denoiser: Denoiser) -> Points:
        x = flow_samples(denoiser, x_T, noise=model.noise, tolerance=tolerance)
        return model.scaling.to_data(x)

    by_sampler = draw_samples(
        sampler,
        model.exact.denoiser,
        times,
        n=n,
        block=block,
        seed=model.seed,
        clean=model.fresh(n, "attribute/clean"),
    ).x
    return {
        SAMPLER_ALONE: model.scaling.to_data(by_sampler.double()),
        NETWORK_ALONE: by_solver(model.denoiser),
        BOTH: samples,
        NEITHER: by_solver(model.exact.denoiser),
    }


def attribute(
    model: ModelUnderTest, samples: Mapping[str, Points], settings: MeasureSamplesSettings
) -> dict[str, Any]:
    """Measure each combination by energy distance and mean log density, and compare them.

    Args:
        model: Supplies the exact distribution.
        samples: Samples of each combination, data units, the same number in each.
        settings: Number of pairs of true sets, which give the floor and the standard errors.

    Returns:
        For each combination, `energy_distance`, `log_density` (nats, data units) and `strays` (see
        `LogDensityMeasure`); as `truth`, the `log_density` of true points; as `t`, the time of the
        densities; and the `verdict`, in words.
    """
    true_set, pairs = model.true_sets(len(samples[BOTH]), settings.null_pairs, "attribute")
    distance_to = partial(DISTANCES["energy_distance"], settings=settings)
    energies = estimate_distances(distance_to, samples, true_set, pairs)
    # With all the true points drawn above, the mean of the truth adds hardly any error.
    log_density = LogDensityMeasure(model, true_set, *itertools.chain(*pairs))
    densities = {name: log_density(points, name) for name, points in samples.items()}
    gaps = {
        "energy distance": {
            name: Mean(energy.value - energy.floor, energy.se) for name, energy in energies.items()
        },
        "log density": {
            name: Mean(
                density.mean.value - log_density.truth.value,
                math.hypot(density.mean.se, log_density.truth.se),
            )
            for name, density in densities.items()
        },
    }
    return {
        "t": log_density.t,
        "truth": {"log_density": log_density.truth},
        **{
            name: {
                "energy_distance": energies[name],
                "log_density": densities[name].mean,
                "strays": densities[name].strays,
            }
            for name in samples
        },
        "verdict": "; ".join(f"by {measure} {verdict(gap)}" for measure, gap in gaps.items()),
    }


def verdict(gaps: Mapping[str, Mean]) -> str:
    """Describe which error dominates by one measure.

    A gap stands out if it exceeds three of its standard errors. If only one of sampler and network
    stands out, that one dominates; if both do, the one whose gap is larger by three standard errors
    of the difference. The schedule stands out if the combination without either error does.

    Args:
        gaps: Difference to the truth for each combination.
    """
    sampler, network = gaps[SAMPLER_ALONE], gaps[NETWORK_ALONE]
    difference = Mean(abs(sampler.value) - abs(network.value), math.hypot(sampler.se, network.se))
    if not (_stands_out(sampler) or _stands_out(network)):
        conclusion = "neither stands out"
    elif _stands_out(sampler) and _stands_out(network) and not _stands_out(difference):
        conclusion = "both weigh alike"
    else:
        only_one = _stands_out(sampler) != _stands_out(network)
        is_sampler = _stands_out(sampler) if only_one else difference.value > 0
        conclusion = f"the {'sampler' if is_sampler else 'network'} dominates"
    numbers = [f"{gap.value:+.2g} ± {gap.se:.1g}" for gap in (sampler, network)]
    sentence = f"{conclusion} (sampler alone {numbers[0]}, network alone {numbers[1]})"
    schedule = gaps[NEITHER]
    if _stands_out(schedule):
        sentence += (
            f", and so does the schedule ({schedule.value:+.2g} ± {schedule.se:.1g} with neither)"
        )
    return sentence


def _stands_out(gap: Mean) -> bool:
    return abs(gap.value) > 3 * gap.se
