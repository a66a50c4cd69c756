"""Where the error of the samples comes from: the network, or the sampler?

Each is taken out in turn: the exact denoiser in the network's place leaves the sampler's error, a
converged solver in the sampler's place leaves the network's. The two need not sum to what both do
together.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.flow import flow_samples
from ddpm.metrics import Mean, energy_distance, estimate, mean_of
from ddpm.process import Denoiser
from ddpm.reverse import Sampler, draw_samples
from ddpm.runtime import stream
from ddpm.subject import Subject

Points = Float64[Tensor, "n 2"]

SAMPLER_ALONE, NETWORK_ALONE, BOTH = "exact_sampler", "network_solver", "network_sampler"


class Gap(NamedTuple):
    """How far a measure is from what the truth gives, and its standard error."""

    value: float
    se: float

    @property
    def stands_out(self) -> bool:
        """Beyond three standard errors."""
        return abs(self.value) > 3 * self.se


def arms(
    subject: Subject, sampler: Sampler, times: list[float], *, n: int, block: int, tolerance: float
) -> dict[str, Points]:
    """Samples in data units: exact denoiser and sampler, network and solver, network and sampler.

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

    x_T = torch.randn(n, 2, dtype=torch.float64, generator=stream(subject.seed, "attribute/solver"))
    found = {
        SAMPLER_ALONE: sampled(subject.truth.denoiser),
        NETWORK_ALONE: flow_samples(
            subject.denoiser, x_T, noise=subject.noise, tolerance=tolerance
        ),
        BOTH: sampled(subject.denoiser),
    }
    return {name: subject.scaling.to_data(points) for name, points in found.items()}


def attribute(subject: Subject, found: Mapping[str, Points], *, null_pairs: int) -> dict[str, Any]:
    """Energy distance and mean log density under the truth of each arm, and what they say.

    Args:
        subject: Model and truth.
        found: Samples of each arm, data units, as many in each.
        null_pairs: Pairs of true sets behind the floor and its standard error.

    Returns:
        For each arm `energy_distance` and `log_density` (nats, data units, at time `t`), the
        truth's own `log_density`, and a verdict in words.
    """
    n = len(found[BOTH])

    def fresh(k: int) -> Points:
        return subject.scaling.to_data(subject.fresh(n, f"attribute/true/{k}"))

    true = fresh(0)
    pairs = [(fresh(2 * k + 1), fresh(2 * k + 2)) for k in range(null_pairs)]
    energy = estimate(energy_distance, found, true, pairs)
    # Without noise the truth has no density at 0.
    t = 0 if subject.noise > 0 else 1
    # All true points there are: the truth's own value should add next to no error.
    sets = {**found, "truth": torch.cat([true, *itertools.chain(*pairs)])}
    log_density = {
        name: mean_of(_log_density(subject, points, t, name)) for name, points in sets.items()
    }
    truth = log_density.pop("truth")
    gaps = {
        "energy distance": {k: Gap(e.value - e.floor, e.se) for k, e in energy.items()},
        "log density": {k: _difference(mean, truth) for k, mean in log_density.items()},
    }
    return {
        "t": t,
        "truth": {"log_density": truth},
        **{k: {"energy_distance": energy[k], "log_density": log_density[k]} for k in found},
        "verdict": "; ".join(f"by {measure} {said(gap)}" for measure, gap in gaps.items()),
    }


def said(gaps: Mapping[str, Gap]) -> str:
    """Which of the two dominates, in words, by the distances from the truth of one measure."""
    sampler, network = gaps[SAMPLER_ALONE], gaps[NETWORK_ALONE]
    difference = abs(sampler.value) - abs(network.value)
    if not (sampler.stands_out or network.stands_out):
        word = "neither stands out"
    elif Gap(difference, math.hypot(sampler.se, network.se)).stands_out:
        word = f"the {'sampler' if difference > 0 else 'network'} dominates"
    else:
        word = "both weigh alike"
    numbers = [f"{gap.value:+.2g} ± {gap.se:.1g}" for gap in (sampler, network)]
    return f"{word} (sampler alone {numbers[0]}, network alone {numbers[1]})"


def _log_density(subject: Subject, points: Points, t: int, name: str) -> Float64[Tensor, " n"]:
    x_t = subject.noised(subject.scaling.to_model(points), t, f"attribute/{name}")
    return subject.truth.log_density(x_t, t) + subject.scaling.log_jacobian


def _difference(one: Mean, other: Mean) -> Gap:
    return Gap(one.value - other.value, math.hypot(one.se, other.se))
