"""Guidance measured against the distribution that it is said to sample.

The output density q of a deterministic sampler is known exactly: see
`ddpm.sampling.output_density`. The divergences to the conditional and to the tilted distribution
are therefore means of log-ratios over the samples, KL(q || p) = E_q [log q - log p]. The other
direction, KL(tilted || q), reveals modes that are lost. For the converged flow it is a sum over a
grid. Single values can be huge where q has nearly no mass, so that each is cut at 30 nats.

Samples start from scrambled Sobol points, in independent sets. The standard error comes from the
spread of the means over the sets; it is several times below that of independent points.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import distances, in_parallel, log, sobol_normal, stream
from ddpm.data.datasets import Dataset
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser, with_jumps
from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.distances import energy_distance
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean, mean_of
from ddpm.reference.tilted import TiltedDistribution
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.output_density import output_density
from ddpm.sampling.sampler import Sampler

Points = Float64[Tensor, "n 2"]
PerPoint = Float64[Tensor, " n"]

_CUT = 30.0
# Cells of the grid that hold less than this are left out of KL(tilted || q).
_NEGLIGIBLE = 1e-7
# Points of the conditional distribution from which its 99 % region is found.
_TRUE_POINTS, _REGION = 20_000, 0.99


class SampledNats(NamedTuple):
    """How far the output of a deterministic sampler is from both distributions, in nats.

    Attributes:
        to_conditional: KL(q || conditional), with each value cut at 30 nats.
        to_tilted: KL(q || tilted), likewise.
        entropy: Of q, with respect to model units.
        wrong_class: Mean posterior probability of the other labels.
        outside: Fraction outside the region of highest density that holds 99 % of the conditional.
        along: Mean position along the curves of the class, in [0, 1].
        across: Mean squared distance from them, in variances of the noise.
        folded: Fraction at which the sampler reverses orientation: the values are lower bounds.
    """

    to_conditional: Mean
    to_tilted: Mean
    entropy: Mean
    wrong_class: Mean
    outside: Mean
    along: Mean
    across: Mean
    folded: float


class DrawnNats(NamedTuple):
    """How far samples of a stochastic sampler, whose density is not known, are from both.

    Standard errors take the values at different points to be independent. Distances to nearest
    neighbours are not quite: for 1,000 normal points the errors are a tenth too small.

    Attributes:
        to_conditional: KL(q || conditional), with the entropy of q estimated from neighbours.
        to_tilted: KL(q || tilted), likewise.
        entropy: The estimate of the entropy of q; the bias that it has for as many points of the
            tilted distribution is subtracted.
        bias: That bias.
        log_density: Mean log density under the conditional distribution, with each value cut at
            -30, minus the mean over 20,000 true points of the class, whose error is not included.
        strays: Fraction less likely under the conditional than any of 20,000 true points.
        energy_to_conditional: Energy distance to points of the conditional distribution.
        energy_to_tilted: Energy distance to points of the tilted distribution.
        wrong_class: Mean posterior probability of the other labels.
        outside: Fraction outside the region of highest density that holds 99 % of the conditional.
        along: Mean position along the curves of the class, in [0, 1].
        across: Mean squared distance from them, in variances of the noise.
    """

    to_conditional: Mean
    to_tilted: Mean
    entropy: Mean
    bias: Mean
    log_density: Mean
    strays: float
    energy_to_conditional: float
    energy_to_tilted: float
    wrong_class: Mean
    outside: Mean
    along: Mean
    across: Mean


class TiltedNats(NamedTuple):
    """KL(tilted || q) with each value cut at 30 nats, and the median of the values."""

    from_tilted: float
    from_tilted_median: float


class GuidanceStudy:
    """Measures samplers of one label at one scale.

    Args:
        tilted: The tilted distribution, which knows the conditional one.
        dataset: The data set.
        scaling: Map from its data units to model units.
        sets: Independent sets of starting points.
        points: Points in each set; a power of two.
        seed: Seed of the starting points.
    """

    def __init__(
        self,
        tilted: TiltedDistribution,
        dataset: Dataset,
        scaling: Scaling,
        *,
        sets: int,
        points: int,
        seed: int,
    ) -> None:
        self._dataset, self._scaling = dataset, scaling
        self.tilted, self.seed = tilted, seed
        self.conditional = tilted.exact.given(tilted.label)
        seeds = [(seed * sets + k) % 2**63 for k in range(sets)]
        self.starts = torch.stack([sobol_normal(points, number) for number in seeds])
        truth = self.conditional.sample(_TRUE_POINTS, 0, generator=stream(seed, "region"))
        self._true_log_density = self.conditional.log_density(truth, 0)
        self._lowest = self._true_log_density.quantile(1 - _REGION)

    def density(
        self, sampler: Sampler, denoiser: Denoiser, times: Sequence[float]
    ) -> tuple[SampledNats, Points]:
        """Measure a deterministic sampler by the density of its output; returns its samples too."""
        sets, points, _ = self.starts.shape
        times = with_jumps(times, denoiser)
        output = output_density(sampler, denoiser, self.starts.flatten(0, 1), times)
        conditional = self.conditional.log_density(output.x, 0)
        along, across = self._project(output.x)

        def mean(values: PerPoint) -> Mean:
            return mean_of(values.view(sets, points).mean(1))

        return SampledNats(
            mean((output.log_density - conditional).clamp(max=_CUT)),
            mean((output.log_density - self.tilted.log_density(output.x)).clamp(max=_CUT)),
            mean(-output.log_density),
            mean(self.wrong_class(output.x)),
            mean((conditional < self._lowest).double()),
            mean(along),
            mean(across),
            float((output.determinant < 0).double().mean()),
        ), output.x

    def reverse(
        self, denoiser: Denoiser, *, tolerance: float
    ) -> tuple[TiltedNats, Float64[Tensor, " k2"]]:
        """KL(tilted || q) for the converged flow of a denoiser.

        Returns:
            The divergence; and log(tilted / q), cut at 30 nats, on the tilted distribution's grid,
            or NaN where its cells are negligible.
        """
        has_mass = self.tilted.weights > _NEGLIGIBLE
        x, weights = self.tilted.grid[has_mass], self.tilted.weights[has_mass]
        log_q = log_likelihood(denoiser, x, 0, tolerance=tolerance)
        values = (self.tilted.log_density(x) - log_q).clamp(max=_CUT)
        on_grid = torch.full_like(self.tilted.weights, math.nan)
        on_grid[has_mass] = values
        weights = weights / weights.sum()
        order = values.argsort()
        median = values[order][weights[order].cumsum(0) >= 0.5][0]
        return TiltedNats(float(weights @ values), float(median)), on_grid

    def drawn(
        self, sampler: Sampler, denoiser: Denoiser, times: Sequence[float]
    ) -> tuple[DrawnNats, Points]:
        """Measure a stochastic sampler by its samples, from the same starting points."""
        times = with_jumps(times, denoiser)

        @torch.no_grad()
        def run(numbered: tuple[int, Points]) -> Points:
            number, x_T = numbered
            generator = stream(self.seed, f"guidance/{number}")
            return run_sampler(sampler, denoiser, x_T, times, generator=generator).x

        x = torch.cat(in_parallel(run, enumerate(self.starts)))
        n = len(x)
        tilted = self.tilted.sample(n, generator=stream(self.seed, "guidance/tilted"))
        conditional = self.conditional.sample(n, 0, generator=stream(self.seed, "guidance/true"))
        # The mean of -log p is the entropy, so that the difference is the bias with less noise.
        bias = mean_of(neighbour_entropies(tilted) + self.tilted.log_density(tilted))
        entropies = neighbour_entropies(x) - bias.value
        log_conditional = self.conditional.log_density(x, 0)
        log_tilted = self.tilted.log_density(x)
        true = self._true_log_density
        along, across = self._project(x)

        def with_bias(values: PerPoint) -> Mean:
            value, se = mean_of(values)
            return Mean(value, math.hypot(se, bias.se))

        return DrawnNats(
            with_bias(-entropies - log_conditional.clamp(min=-_CUT)),
            with_bias(-entropies - log_tilted.clamp(min=-_CUT)),
            with_bias(entropies),
            bias,
            mean_of(log_conditional.clamp(min=-_CUT) - true.mean()),
            float((log_conditional < true.min()).double().mean()),
            energy_distance(x, conditional).value,
            energy_distance(x, tilted).value,
            mean_of(self.wrong_class(x)),
            mean_of((log_conditional < self._lowest).double()),
            mean_of(along),
            mean_of(across),
        ), x

    def wrong_class(self, x: Points) -> PerPoint:
        """Posterior probability that points have another label."""
        return 1 - self.tilted.exact.label_probabilities(x, 0)[:, self.tilted.label]

    def _project(self, x: Points) -> tuple[PerPoint, PerPoint]:
        """Position along the curves of the class, and squared distance in noise variances."""
        data = self._scaling.to_data(x)
        position, distance = self._dataset.project(data, self.tilted.label)
        return position, (distance / self._dataset.noise).square()

    def conditional_to_tilted(self) -> float:
        """KL(conditional || tilted): what sampling without guidance scores."""
        grid = TiltedDistribution(self.tilted.exact, self.tilted.label, 1.0)
        ratio = grid.log_density(grid.grid) - self.tilted.log_density(grid.grid)
        return grid.mean(ratio.clamp(max=_CUT))


def class_divergence(
    exact: ExactDistribution, denoiser: Denoiser, *, n: int, tolerance: float = 1e-5, seed: int
) -> Mean:
    """KL(truth || model) of one label, or of the whole, on n true points, in nats."""
    x = exact.sample(n, 0, generator=stream(seed, "guidance/kl"))
    log_q = log_likelihood(denoiser, x, 0, tolerance=tolerance)
    return mean_of(exact.log_density(x, 0) - log_q)


def neighbour_entropies(x: Points) -> PerPoint:
    """Values whose mean estimates the differential entropy, by Kozachenko and Leonenko, in nats.

    They are for samples whose density is not known. The mean is biased, since the density is not
    constant around each point: compare it with that of points of a known distribution.

    References:
        Kozachenko & Leonenko 1987
    """
    n = len(x)
    nearest = torch.cat(
        [distances(block, x).topk(2, largest=False).values[:, 1] for block in x.split(500)]
    )
    euler = 0.57721566490153286
    return 2 * log(nearest.clamp(min=1e-300)) + math.log(math.pi * (n - 1)) + euler
