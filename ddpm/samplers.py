"""Samplers that need nothing but the present point; those that look back are in `multistep`.

A sampler is a class with its settings as fields and one method, `step`; see `reverse.Sampler`. Its
values stand in params.yaml under `samplers`, its name in SAMPLERS at the foot.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PrivateAttr

from ddpm.flow import angle, time_at
from ddpm.multistep import DPMSolver2M, DPMSolver3M, DPMSolverSDE2M, UniPC
from ddpm.ode import solve
from ddpm.params import Params, Real, Tolerance, choose, section, settings
from ddpm.process import Batch, Denoiser, posterior, q_sample
from ddpm.reverse import Moment, Sampler, normal_like
from ddpm.runtime import stream
from ddpm.schedules import Schedule
from ddpm.spacings import refuse_no_signal

_MOST_CHURN = math.sqrt(2) - 1


class DDPM(Sampler):
    """Ancestral sampling: x_s from q(x_s | x_t, x_0) with x0_hat in place of x_0.

    Attributes:
        variance: `posterior` is the variance of q(x_s | x_t, x_0), right when x_0 is known; `beta`
            is that of q(x_t | x_s), right when the data are standard normal. `analytic` adds to the
            posterior's what is not known of x_0, measured on clean points: the best isotropic
            variance for this denoiser. The last step, to s = 0, adds noise with `analytic` alone.

    References:
        Ho et al. 2020, algorithm 2 and section 3.2, https://arxiv.org/abs/2006.11239
        Bao et al. 2022, theorem 1 (analytic), https://arxiv.org/abs/2201.06503
    """

    variance: Literal["posterior", "beta", "analytic"]
    # E |x_0 - x0_hat|^2 for each coordinate, by time.
    _unknown: dict[float, float] = PrivateAttr(default_factory=dict)

    @property
    def deterministic(self) -> bool:
        """See `Sampler`."""
        return False

    def prepared(
        self, denoiser: Denoiser, times: Sequence[float], clean: Batch, *, seed: int
    ) -> "Sampler":
        """With the analytic variance: measure how much of x_0 is unknown at each time."""
        if self.variance != "analytic":
            return self
        ready = self.model_copy()
        ready._unknown = {}
        with torch.no_grad():
            for t in times:
                generator = stream(seed, f"analytic/{t}", clean.device)
                x_t = q_sample(denoiser.schedule, clean, t, normal_like(clean, generator))
                x0_hat, _ = denoiser(x_t, t)
                ready._unknown[t] = float((clean - x0_hat).square().mean())
        return ready

    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """See `Sampler`."""
        x0_hat, _ = denoiser(x_t, t)
        q = posterior(denoiser.schedule, t, s)
        x_s = q.x0 * x0_hat + q.x_t * x_t
        if self.variance == "analytic":
            variance = q.variance + q.x0**2 * self._unknown[t]
        else:
            variance = 0 if s == 0 else q.variance if self.variance == "posterior" else q.beta
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * normal_like(x_t, generator)
        return x_s, Moment(t, x_t, x0_hat)


class DDIM(Sampler):
    """x_s = sqrt(alpha_bar_s) x0_hat + sqrt(sigma_s^2 - noise^2) eps_hat + noise e.

    Attributes:
        eta: noise = eta sqrt(posterior variance). 0 is deterministic; 1 is DDPM with the posterior
            variance.

    References:
        Song et al. 2021, eq. 12 and 16, https://arxiv.org/abs/2010.02502
    """

    eta: Annotated[Real, Field(ge=0, le=1)]

    @property
    def deterministic(self) -> bool:
        """See `Sampler`."""
        return self.eta == 0

    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """See `Sampler`."""
        x0_hat, eps_hat = denoiser(x_t, t)
        schedule = denoiser.schedule
        variance = self.eta**2 * posterior(schedule, t, s).variance
        a, sigma = schedule.levels(s)
        x_s = a * x0_hat + math.sqrt(max(0.0, sigma**2 - variance)) * eps_hat
        if variance > 0:
            x_s = x_s + math.sqrt(variance) * normal_like(x_t, generator)
        return x_s, Moment(t, x_t, x0_hat)


class Heun(Sampler):
    """Second order in sigma_ve = sigma / sqrt(alpha_bar), for y = x / sqrt(alpha_bar).

        d y / d sigma_ve = eps(x, t)

    An Euler step to s, then the mean of both ends' slopes; two evaluations a step, but for the
    last, to s = 0, which is Euler's and goes to x0_hat.

    Attributes:
        churn: gamma: before each step but the last sigma_ve is raised to (1 + gamma) sigma_ve by
            fresh noise. 0 is deterministic.

    References:
        Karras et al. 2022, algorithms 1 and 2, https://arxiv.org/abs/2206.00364
    """

    uses_log_snr = True

    churn: Annotated[Real, Field(ge=0, le=_MOST_CHURN)]

    @property
    def deterministic(self) -> bool:
        """See `Sampler`."""
        return self.churn == 0

    def steps_within(self, evaluations: int) -> int:
        """Two evaluations a step, but for the last."""
        return max(1, (evaluations + 1) // 2)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """See `Sampler`."""
        schedule = denoiser.schedule
        a, sigma = schedule.levels(t)
        x = x_t
        if self.churn > 0 and s > 0:
            # Not beyond T, where the model knows nothing.
            a_T, sigma_T = schedule.levels(schedule.T)
            noise = sigma / a
            raised = min((1 + self.churn) * noise, sigma_T / a_T)
            t_raised = schedule.time_of(-math.log1p(raised**2))
            a_raised, sigma = schedule.levels(t_raised)
            added = math.sqrt(max(0.0, raised**2 - noise**2)) * normal_like(x, generator)
            x, a, t = a_raised * (x / a + added), a_raised, t_raised
        x0_hat, slope = denoiser(x, t)
        moment = Moment(t, x_t, x0_hat)
        if s == 0:
            return x0_hat, moment
        a_s, sigma_s = schedule.levels(s)
        # Euler's step through x0_hat: through y it would lose digits where a is small.
        kept = sigma_s / sigma
        x_s = kept * x + (a_s - a * kept) * x0_hat
        _, end_slope = denoiser(x_s, s)
        return x_s + (sigma_s - a_s * sigma / a) * (end_slope - slope) / 2, moment


class ODE(Sampler):
    """The probability flow between two moments, to a tolerance: what the others converge to.

    Where the flow does not reach t = 0 (prediction x0, or the truth of data without noise) it is
    solved to t = 1, and the last step goes to the denoised point.

    Attributes:
        tolerance: Of the solver; see `ode.solve`.
    """

    adaptive = True

    tolerance: Tolerance

    def step(
        self,
        denoiser: Denoiser,
        x_t: Batch,
        t: float,
        s: float,
        *,
        past: Sequence[Moment],
        generator: torch.Generator,
    ) -> tuple[Batch, Moment]:
        """See `Sampler`."""
        schedule = denoiser.schedule
        x0_hat, _ = denoiser(x_t, t)
        moment = Moment(t, x_t, x0_hat)
        stops_early = s == 0 and not denoiser.regular
        if stops_early and t <= 1:
            return x0_hat, moment
        end = 1.0 if stops_early else s
        # Not every device has float64.
        exact = x_t if x_t.device.type == "mps" else x_t.double()
        solution = solve(
            lambda phi, x: denoiser.velocity(x, time_at(schedule, phi)),
            exact,
            angle(schedule, t),
            angle(schedule, end),
            tolerance=self.tolerance,
        )
        x_s = solution.y.to(x_t.dtype)
        return denoiser(x_s, end)[0] if stops_early else x_s, moment


def sampler_of(params: Params, schedule: Schedule, name: str | None = None) -> Sampler:
    """The sampler that params.yaml names, or another one with its settings there.

    Raises:
        UserError: If its name or its settings are not allowed, or it has no meaning here.
    """
    name = params.sampler if name is None else name
    sampler = sampler_named(name, params)
    if sampler.uses_log_snr:
        refuse_no_signal(schedule, f"sampler {name}")
    return sampler


def sampler_named(name: str, params: Params, parameter: str = "sampler") -> Sampler:
    """A sampler with its settings in params.yaml, on whatever schedule.

    Args:
        name: Which.
        params: The present parameters.
        parameter: The parameter that names it, for the message.

    Raises:
        UserError: If its name or its settings are not allowed.
    """
    kind = choose(parameter, name, SAMPLERS)
    return settings(f"samplers.{name}", kind, section("samplers", name, params.samplers))


SAMPLERS: dict[str, type[Sampler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "heun": Heun,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "dpmpp_2m_sde": DPMSolverSDE2M,
    "unipc": UniPC,
    "ode": ODE,
}
