"""Samplers whose step uses the current point alone; see `multistep` for those with a history."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PrivateAttr
from typing_extensions import override

from ddpm.core.compute import in_parallel, stream
from ddpm.core.errors import UserError
from ddpm.core.settings import Integer, Real, Tolerance
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import Batch
from ddpm.diffusion.process import posterior, q_sample
from ddpm.flow.ode import solve
from ddpm.flow.probability_flow import angle, time_at
from ddpm.sampling.sampler import ReverseStep, Sampler, SamplerState, normal_like

# As in Karras et al. 2022, algorithm 2.
_MAX_CHURN = math.sqrt(2) - 1


class DDPM(Sampler):
    """Ancestral sampling: draws x_s from q(x_s | x_t, x_0) with x0_hat in place of x_0.

    Attributes:
        variance: Variance of the noise added in a step. `posterior` is that of q(x_s | x_t, x_0),
            correct when x_0 is known. `beta` is that of q(x_t | x_s), correct for standard normal
            data. `analytic` is the best isotropic variance for the denoiser: that of the posterior
            plus the variance of x_0 given x_t, which is measured on clean points. The last step, to
            s = 0, adds noise only with `analytic`.
        correctors: Steps of Langevin dynamics at each time s > 0, each with one evaluation. They
            bring x_s closer to the distribution whose score the denoiser has at s, which matters
            where that is not the diffusion of anything, as with guidance.
        corrector_step: Length of such a step, relative to sigma_s^2.

    References:
        Ho et al. 2020, algorithm 2 and section 3.2, https://arxiv.org/abs/2006.11239
        Bao et al. 2022, theorem 1 (analytic), https://arxiv.org/abs/2201.06503
        Song et al. 2021, algorithm 5 (correctors), https://arxiv.org/abs/2011.13456
    """

    variance: Literal["posterior", "beta", "analytic"]
    correctors: Annotated[Integer, Field(ge=0, le=1000)] = 0
    corrector_step: Annotated[Real, Field(gt=0, le=1)] = 0.1
    # E (x_0 - x0_hat)^2 per coordinate, by time.
    _x0_variance: dict[float, float] = PrivateAttr(default_factory=dict)

    @property
    @override
    def deterministic(self) -> bool:
        return False

    @override
    def steps_within(self, evaluations: int) -> int:
        # The last step, to s = 0, has no correctors.
        return max(1, (evaluations + self.correctors) // (1 + self.correctors))

    @override
    def prepared(
        self, denoiser: Denoiser, times: Sequence[float], clean: Batch, *, seed: int
    ) -> "Sampler":
        if self.variance != "analytic":
            return self

        @torch.no_grad()
        def x0_variance(t: float) -> float:
            generator = stream(seed, f"analytic/{t}", clean.device)
            x_t = q_sample(denoiser.schedule, clean, t, normal_like(clean, generator))
            x0_hat, _ = denoiser(x_t, t)
            return float((clean - x0_hat).square().mean())

        sampler = self.model_copy()
        variances = in_parallel(x0_variance, times, clean.device)
        sampler._x0_variance = dict(zip(times, variances, strict=True))
        return sampler

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        x0_hat, _ = step.denoiser(step.x_t, step.t)
        q = posterior(step.schedule, step.t, step.s)
        x_s = q.weight_x0 * x0_hat + q.weight_x_t * step.x_t
        if self.variance == "analytic":
            if step.t not in self._x0_variance:
                raise UserError(
                    "DDPM with variance analytic has measured no denoiser at t ="
                    f" {step.t:g}; pass clean points to draw_samples as `clean`"
                )
            variance = q.variance + q.weight_x0**2 * self._x0_variance[step.t]
        else:
            variance = 0 if step.s == 0 else q.variance if self.variance == "posterior" else q.beta
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * step.noise()
        for _ in range(self.correctors if step.s > 0 else 0):
            x_s = self._corrected(step, x_s)
        return x_s, SamplerState(step.t, step.x_t, x0_hat)

    def _corrected(self, step: ReverseStep, x_s: Batch) -> Batch:
        """One step of Langevin dynamics at s: x + d score + sqrt(2 d) z, d = step sigma_s^2."""
        _, sigma = step.schedule.levels(step.s)
        _, eps_hat = step.denoiser(x_s, step.s)
        noise = math.sqrt(2 * self.corrector_step) * step.noise()
        return x_s + sigma * (noise - self.corrector_step * eps_hat)


class DDIM(Sampler):
    """DDIM: x_s = sqrt(alpha_bar_s) x0_hat + sqrt(sigma_s^2 - noise^2) eps_hat + noise e.

    Attributes:
        eta: Share of fresh noise, noise = eta sqrt(posterior variance). 0 is deterministic, and 1
            is `DDPM` with the posterior variance.

    References:
        Song et al. 2021, eq. 12 and 16, https://arxiv.org/abs/2010.02502
    """

    eta: Annotated[Real, Field(ge=0, le=1)]

    @property
    @override
    def deterministic(self) -> bool:
        return self.eta == 0

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        x0_hat, eps_hat = step.denoiser(step.x_t, step.t)
        variance = self.eta**2 * posterior(step.schedule, step.t, step.s).variance
        a, sigma = step.schedule.levels(step.s)
        x_s = a * x0_hat + math.sqrt(max(0.0, sigma**2 - variance)) * eps_hat
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * step.noise()
        return x_s, SamplerState(step.t, step.x_t, x0_hat)


class Heun(Sampler):
    """Heun's method in sigma_ve = sigma / sqrt(alpha_bar), for y = x / sqrt(alpha_bar).

        d y / d sigma_ve = eps(x, t)

    An Euler step to s is corrected with the mean of the slopes at both ends, which makes the method
    second order. A step costs two evaluations. The last, to s = 0, is an Euler step and costs one;
    it returns x0_hat.

    Attributes:
        churn: Before each step but the last, fresh noise raises sigma_ve to (1 + churn) sigma_ve.
            0 is deterministic.

    References:
        Karras et al. 2022, algorithms 1 and 2, https://arxiv.org/abs/2206.00364
    """

    uses_log_snr = True

    churn: Annotated[Real, Field(ge=0, le=_MAX_CHURN)]

    @property
    @override
    def deterministic(self) -> bool:
        return self.churn == 0

    @override
    def steps_within(self, evaluations: int) -> int:
        return max(1, (evaluations + 1) // 2)

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        schedule, t, s = step.schedule, step.t, step.s
        a, sigma = schedule.levels(t)
        x = step.x_t
        if self.churn > 0 and s > 0:
            # Clamp to T: the model is not trained beyond it.
            a_T, sigma_T = schedule.levels(schedule.T)
            sigma_ve = sigma / a
            sigma_ve_up = min((1 + self.churn) * sigma_ve, sigma_T / a_T)
            t_up = schedule.time_of(-math.log1p(sigma_ve_up**2))
            a_up, sigma = schedule.levels(t_up)
            noise = math.sqrt(max(0.0, sigma_ve_up**2 - sigma_ve**2)) * step.noise()
            x, a, t = a_up * (x / a + noise), a_up, t_up
        x0_hat, start_slope = step.denoiser(x, t)
        state = SamplerState(t, step.x_t, x0_hat)
        if s == 0:
            return x0_hat, state
        a_s, sigma_s = schedule.levels(s)
        # The Euler step, in terms of x0_hat. In terms of y it would lose digits where a is small.
        decay = sigma_s / sigma
        x_s = decay * x + (a_s - a * decay) * x0_hat
        _, end_slope = step.denoiser(x_s, s)
        return x_s + (sigma_s - a_s * sigma / a) * (end_slope - start_slope) / 2, state


class ODE(Sampler):
    """Solves the probability flow to a tolerance, with steps of its own between the given times.

    The deterministic samplers converge to it. If the flow does not reach t = 0 (prediction x0, or
    the exact denoiser of data without noise), the step to 0 ends at t = 1 and returns x0_hat there.

    Attributes:
        tolerance: Tolerance of the solver; see `ddpm.flow.ode.solve`.
    """

    adaptive = True

    tolerance: Tolerance

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        denoiser, schedule, x_t = step.denoiser, step.schedule, step.x_t
        x0_hat, _ = denoiser(x_t, step.t)
        state = SamplerState(step.t, x_t, x0_hat)
        stops_early = step.s == 0 and not denoiser.regular
        if stops_early and step.t <= 1:
            return x0_hat, state
        end = 1.0 if stops_early else step.s
        # MPS does not support float64.
        start = x_t if x_t.device.type == "mps" else x_t.double()
        solution = solve(
            lambda phi, x: denoiser.velocity(x, time_at(schedule, phi)),
            start,
            angle(schedule, step.t),
            angle(schedule, end),
            tolerance=self.tolerance,
        )
        x_s = solution.y.to(x_t.dtype)
        return denoiser(x_s, end)[0] if stops_early else x_s, state
