"""A sampler whose times and coefficients are fitted to one denoiser.

Every multistep sampler is a linear combination of the noise and of all estimates of x_0 so far:

    x_i = alpha_i x_T + sum_{j < i} C_ij x0_hat_j,  x0_hat_j = x0_hat(x_j, t_j),  i = 1 ... N

with x_N at t = 0. Theory fixes the coefficients so that the error vanishes fast for small steps.
For few, large steps others are better; `ddpm.studies.bespoke.fit_bespoke` finds them. The last row
need not return x0_hat: it may extrapolate.

References:
    Shaul et al. 2024 (bespoke non-stationary solvers), https://arxiv.org/abs/2403.01329
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor
from typing_extensions import override

from ddpm.core.errors import UserError
from ddpm.core.settings import Real
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS, Batch
from ddpm.diffusion.schedule import Schedule
from ddpm.sampling.loop import run_sampler
from ddpm.sampling.sampler import ReverseStep, Sampler, SamplerState

_MAX_STEPS = 1000


class BespokeSolver(Sampler):
    """A sampler with coefficients of its own for each step; see the module.

    Attributes:
        times: Its times, decreasing; it must be run with these.
        coefficients: A row for each step: the factor of x_T, and those of the estimates of x_0 at
            the times so far.

    Raises:
        ValueError: If the times do not decrease, or the rows do not fit to them.

    Example:
        >>> import ddpm
        >>> schedule = ddpm.make_schedule(ddpm.Linear(beta_start=1e-4, beta_end=0.02), T=1000)
        >>> times = ddpm.sampling_times("log_snr", schedule, 3)
        >>> solver = BespokeSolver.like(ddpm.DDIM(eta=0), schedule, times)
        >>> [len(row) for row in solver.coefficients]
        [2, 3, 4]
        >>> [round(c, 3) for c in solver.coefficients[-1]]  # DDIM's last step returns x0_hat
        [0.0, 0.0, 0.0, 1.0]
    """

    earlier_states: ClassVar[int] = _MAX_STEPS

    times: tuple[Real, ...]
    coefficients: tuple[tuple[Real, ...], ...]

    @model_validator(mode="after")
    def _refuse_other_shapes(self) -> "BespokeSolver":
        if not 0 < len(self.times) <= _MAX_STEPS:
            raise ValueError(f"there are {len(self.times)} times but should be 1 to {_MAX_STEPS}")
        if list(self.times) != sorted({*self.times}, reverse=True):
            raise ValueError("the times should decrease")
        if [len(row) for row in self.coefficients] != [k + 2 for k in range(len(self.times))]:
            raise ValueError("there should be a row for each time, with 2, 3, 4, ... coefficients")
        return self

    @classmethod
    def like(cls, sampler: Sampler, schedule: Schedule, times: Sequence[float]) -> "BespokeSolver":
        """Return the solver that does what another sampler does at these times.

        Args:
            sampler: A deterministic sampler with one evaluation at each time.
            schedule: Noise schedule.
            times: Decreasing times.

        Raises:
            UserError: If the sampler adds noise or evaluates the denoiser at other times.
        """
        n = len(times)
        rows = []

        # With unit vectors in the place of noise and estimates, the points are the coefficients.
        def unit(x_t: Batch, t: Float[Tensor, "1"]) -> Batch:  # noqa: ARG001
            rows.append(x_t[0].tolist())
            if len(rows) > n:
                raise UserError(f"{type(sampler).__name__} has more evaluations than times")
            return torch.eye(n + 1, dtype=torch.float64)[len(rows)][None]

        if not sampler.deterministic or sampler.adaptive:
            raise UserError(f"{type(sampler).__name__} has no fixed coefficients")
        denoiser = Denoiser(unit, PREDICTIONS["x0"], schedule, torch.float64)
        x_T = torch.eye(n + 1, dtype=torch.float64)[:1]
        end = run_sampler(sampler, denoiser, x_T, times, generator=torch.Generator()).x
        # A corrector changes a point after its evaluation, so that the points are those evaluated.
        rows = [*rows[1:], end[0].tolist()]
        return cls(
            times=tuple(times), coefficients=tuple(tuple(r[: k + 2]) for k, r in enumerate(rows))
        )

    @override
    def step(self, step: ReverseStep) -> tuple[Batch, SamplerState]:
        k = len(step.history)
        if k >= len(self.times) or step.t != self.times[k]:
            raise UserError(
                f"a bespoke solver was run at t = {step.t:g} but has coefficients for its own times"
                " alone; pass its `times`"
            )
        x0_hat, _ = step.denoiser(step.x_t, step.t)
        state = SamplerState(step.t, step.x_t, x0_hat)
        states = [*step.history, state]
        factor, *weights = self.coefficients[k]
        x_s = factor * states[0].x_t
        for weight, earlier in zip(weights, states, strict=True):
            x_s = x_s + weight * earlier.x0_hat
        return x_s, state
