"""Likelihood of a model on fresh true points, and its divergence from the exact distribution.

    KL(truth || model) = E_truth [log p_t(x_t) - log q_t(x_t)]

The estimate is the mean log-ratio over fresh true points, at t = 0, or at t = 1 where there is no
density at 0.
"""

from typing import Any

from jaxtyping import Float64
from torch import Tensor

from ddpm.core.compute import in_parallel
from ddpm.diffusion.denoiser import Denoiser
from ddpm.flow.likelihood import log_likelihood
from ddpm.reference.estimates import mean_of
from ddpm.reference.model_under_test import ModelUnderTest

PerPoint = Float64[Tensor, " n"]


def measure_likelihood(
    model: ModelUnderTest, *, n: int, n_exact: int, tolerance: float
) -> dict[str, Any]:
    """Measure the likelihood of fresh true points and KL(truth || model), and check the method.

    Args:
        model: The model, and the exact distribution.
        n: Number of points whose likelihood under the model is computed.
        n_exact: How many of them are computed again with the exact denoiser, and to a hundredth of
            the tolerance.
        tolerance: Tolerance of the solver of the probability flow.

    Returns:
        `nll`, `entropy` and `kl` in nats and data units, all at time `t`. `exact_kl` is the
        divergence with the exact denoiser in place of the network. It checks the whole computation,
        and consists of the divergence of x_T from N(0, I), which no model can correct, and of the
        solver's error. `solver_error` is the mean by which the log-likelihood falls short of that
        computed to a hundredth of the tolerance, for the `network` and for the `exact` denoiser.
    """
    x0 = model.fresh(n, "measure/likelihood")
    t, shift = model.t, model.scaling.log_jacobian
    x_t = model.noised(x0, t, "measure/likelihood")
    subset = x_t[:n_exact]

    def log_likelihood_of_subset(case: tuple[Denoiser, float]) -> PerPoint:
        denoiser, tolerance = case
        return log_likelihood(denoiser, subset, t, tolerance=tolerance)

    truth = model.exact.log_density(x_t, t)
    network = log_likelihood(model.denoiser, x_t, t, tolerance=tolerance)
    precise = tolerance / 100
    exact = model.exact.denoiser
    cases = [(model.denoiser, precise), (exact, precise), (exact, tolerance)]
    network_precise, exact_precise, exact_log_density = in_parallel(log_likelihood_of_subset, cases)
    errors = {
        "network": network_precise - network[:n_exact],
        "exact": exact_precise - exact_log_density,
    }
    return {
        "t": t,
        "nll": mean_of(-network - shift),
        "entropy": mean_of(-truth - shift),
        "kl": mean_of(truth - network),
        "exact_kl": mean_of(truth[:n_exact] - exact_log_density),
        "solver_error": {name: mean_of(error) for name, error in errors.items()},
    }
