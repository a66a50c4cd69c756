"""Where the error of the samples comes from: the network, or the sampler?

Each is taken out in turn: the exact denoiser in the network's place leaves the sampler's error, a
converged solver in the sampler's place leaves the network's. The two need not sum to what both do
together. With both out, what is left is that x_T is not quite noise: the schedule's own error.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.flow import flow_samples
from ddpm.metrics import Mean, energy_distance, estimate
from ddpm.process import Denoiser
from ddpm.reverse import Sampler, draw_samples
from ddpm.runtime import stream
from ddpm.subject import LogDensity, Subject

Points = Float64[Tensor, "n 2"]

SAMPLER_ALONE, NETWORK_ALONE, BOTH = "exact_sampler", "network_solver", "network_sampler"
NEITHER = "exact_solver"


def arms(
    subject: Subject, sampler: Sampler, times: list[float], *, n: int, block: int, tolerance: float
) -> dict[str, Points]:
    """Samples in data units: exact denoiser or network, with this sampler or a converged solver.

    Args:
        subject: Model and truth.
        sampler: This sampler.
        times: Where it asks the denoiser.
        n: Samples of each arm.
        block: Points sampled at once.
        tolerance: Of the converged solver.
    """
    clean = subject.fresh(n, "attribute/clean")

    def sampled(denoiser: Denoiser) -> Points:
        return draw_samples(
            sampler,
            denoiser,
            times,
            n=n,
            block=block,
            seed=subject.seed,
            device=torch.device("cpu"),
            clean=clean,
        ).x.double()

    def solved(denoiser: Denoiser) -> Points:
        return flow_samples(denoiser, x_T, noise=subject.noise, tolerance=tolerance)

    x_T = torch.randn(n, 2, dtype=torch.float64, generator=stream(subject.seed, "attribute/solver"))
    found = {
        SAMPLER_ALONE: sampled(subject.truth.denoiser),
        NETWORK_ALONE: solved(subject.denoiser),
        BOTH: sampled(subject.denoiser),
        NEITHER: solved(subject.truth.denoiser),
    }
    return {name: subject.scaling.to_data(points) for name, points in found.items()}


def attribute(subject: Subject, found: Mapping[str, Points], *, null_pairs: int) -> dict[str, Any]:
    """Energy distance and mean log density under the truth of each arm, and what they say.

    Args:
        subject: Model and truth.
        found: Samples of each arm, data units, as many in each.
        null_pairs: Pairs of true sets behind the floor and its standard error.

    Returns:
        For each arm `energy_distance`, `log_density` (nats, data units, at time `t`) and `strays`,
        see `subject.LogDensity`; the truth's own `log_density`; and a verdict in words.
    """
    true, pairs = subject.true_sets(len(found[BOTH]), null_pairs, "attribute")
    energy = estimate(energy_distance, found, true, pairs)
    # All true points there are: the truth's own value should add next to no error.
    log_density = LogDensity(subject, true, *itertools.chain(*pairs))
    densities = {name: log_density(points, name) for name, points in found.items()}
    gaps = {
        "energy distance": {k: Mean(e.value - e.floor, e.se) for k, e in energy.items()},
        "log density": {
            k: Mean(
                one.mean.value - log_density.truth.value,
                math.hypot(one.mean.se, log_density.truth.se),
            )
            for k, one in densities.items()
        },
    }
    return {
        "t": log_density.t,
        "truth": {"log_density": log_density.truth},
        **{
            k: {
                "energy_distance": energy[k],
                "log_density": densities[k].mean,
                "strays": densities[k].strays,
            }
            for k in found
        },
        "verdict": "; ".join(f"by {measure} {said(gap)}" for measure, gap in gaps.items()),
    }


def said(gaps: Mapping[str, Mean]) -> str:
    """Which of the two dominates, in words, by the distances from the truth of one measure.

    A distance stands out beyond three of its standard errors; one dominates if it alone stands out,
    or if it is larger than the other by three of theirs. Where the exact denoiser with the
    converged solver stands out, so does the schedule, whose x_T is not noise.
    """
    sampler, network = gaps[SAMPLER_ALONE], gaps[NETWORK_ALONE]
    more = Mean(abs(sampler.value) - abs(network.value), math.hypot(sampler.se, network.se))
    if not (_stands_out(sampler) or _stands_out(network)):
        word = "neither stands out"
    elif _stands_out(sampler) and _stands_out(network) and not _stands_out(more):
        word = "both weigh alike"
    else:
        alone = _stands_out(sampler) != _stands_out(network)
        wins = _stands_out(sampler) if alone else more.value > 0
        word = f"the {'sampler' if wins else 'network'} dominates"
    numbers = [f"{gap.value:+.2g} ± {gap.se:.1g}" for gap in (sampler, network)]
    line = f"{word} (sampler alone {numbers[0]}, network alone {numbers[1]})"
    neither = gaps[NEITHER]
    if _stands_out(neither):
        line += f", and so does the schedule ({neither.value:+.2g} ± {neither.se:.1g} with neither)"
    return line


def _stands_out(gap: Mean) -> bool:
    return abs(gap.value) > 3 * gap.se
