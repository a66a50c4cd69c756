"""Tables of a noise schedule, and their smooth interpolation in time.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
    q(x_t | x_0)     = N(sqrt(alpha_bar_t) x_0, sigma_t^2 I)
    alpha_bar_t = prod_{i <= t} (1 - beta_i),  sigma_t^2 = 1 - alpha_bar_t,  t = 1 ... T

Tables have T + 1 entries and t = 0 is data: beta[0] = 0, alpha_bar[0] = 1. They are float64 and
computed from log alpha_bar, so that no digits are lost at either end. Samplers and likelihood use
real-valued times: between the integers log alpha_bar is a decreasing cubic.

References:
    Ho et al. 2020, https://arxiv.org/abs/2006.11239
    Fritsch & Carlson 1980 (monotone cubics), https://doi.org/10.1137/0717021
"""

import bisect
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm.core.compute import log, sqrt

# T + 1 entries, at t = 0 ... T.
Table = Float64[Tensor, " times"]
# T entries, at t = 1 ... T.
Betas = Float64[Tensor, " steps"]


@dataclass(frozen=True)
class Schedule:
    """The tables of one schedule at t = 0 ... T, and their values at real times.

    Attributes:
        log_alpha_bar: Logarithm of the cumulative product, shape (T + 1,), 0 at t = 0.

    Example:
        >>> schedule = Schedule.from_betas(torch.full((10,), 0.1).double())
        >>> schedule.T, round(float(schedule.alpha_bar[2]), 4)
        (10, 0.81)
        >>> a, sigma = schedule.levels(2.5)
        >>> round(a**2 + sigma**2, 12)
        1.0
    """

    log_alpha_bar: Table

    @classmethod
    def from_betas(cls, betas: Betas) -> "Schedule":
        """Build the tables from beta_1 ... beta_T, each in (0, 1)."""
        return cls(torch.cat((betas.new_zeros(1), torch.log1p(-betas).cumsum(0))))

    def without_terminal_signal(self) -> "Schedule":
        """Shift and scale sqrt(alpha_bar) so that it ends at 0; its value at t = 1 stays the same.

        References:
            Lin et al. 2023, algorithm 1, https://arxiv.org/abs/2305.08891
        """
        root = self.sqrt_alpha_bar
        first, last = root[1], root[-1]
        rescaled = (root - last) * (first / (first - last))
        # The last entry is the logarithm of 0, -inf: no signal.
        return Schedule(torch.cat((root.new_zeros(1), 2 * log(rescaled[1:]))))

    @property
    def T(self) -> int:  # noqa: N802 - the field's name
        """Number of steps."""
        return len(self.log_alpha_bar) - 1

    @cached_property
    def alpha_bar(self) -> Table:
        """Cumulative product of 1 - beta, in [0, 1]; 0 only without terminal signal."""
        return self.log_alpha_bar.exp()

    @cached_property
    def sqrt_alpha_bar(self) -> Table:
        """Factor of x_0 in x_t, in [0, 1]."""
        return sqrt(self.alpha_bar)

    @cached_property
    def sigma(self) -> Table:
        """Noise level sqrt(1 - alpha_bar), in [0, 1]."""
        return sqrt(-torch.expm1(self.log_alpha_bar))

    @cached_property
    def beta(self) -> Table:
        """Variance of the noise that step t adds; 0 at t = 0."""
        return -torch.expm1(self.log_alpha_bar.diff(prepend=self.log_alpha_bar[:1]))

    @cached_property
    def log_snr(self) -> Table:
        """Logarithm of alpha_bar / (1 - alpha_bar); inf at t = 0, -inf without signal."""
        return self.log_alpha_bar - log(-torch.expm1(self.log_alpha_bar))

    @property
    def has_terminal_signal(self) -> bool:
        """Whether alpha_bar_T is above 0, so that the log SNR is finite at T."""
        return math.isfinite(self.log_alpha_bar_at(self.T))

    def log_alpha_bar_at(self, t: float) -> float:
        """Evaluate log alpha_bar at a real time. At the integers it is the value of the table.

        Args:
            t: Time in [0, T].

        Raises:
            ValueError: If t is not in [0, T].
        """
        if not 0 <= t <= self.T:
            raise ValueError(f"t is {t} but should be in [0, {self.T}]")
        k = min(int(t), self.T - 1)
        return self._cubic(k, t - k)

    def levels(self, t: float) -> tuple[float, float]:
        """Evaluate (sqrt(alpha_bar), sigma) at a real time in [0, T]."""
        log_alpha_bar = self.log_alpha_bar_at(t)
        return math.exp(log_alpha_bar / 2), math.sqrt(max(0.0, -math.expm1(log_alpha_bar)))

    def levels_of(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
        """Evaluate (sqrt(alpha_bar), sigma) at many real times in [0, T], on the CPU."""
        t = t.double()
        k = t.long().clamp(max=self.T - 1)
        h = t - k
        start, slope, square, cube = self._coefficient_table[k].unbind(-1)
        # As in `_cubic`, which runs thousands of times to find one time and calls nothing for it.
        log_alpha_bar = start + h * (slope + h * (square + h * cube))
        if not self.has_terminal_signal:
            last = start + 2 * torch.log1p(-h)
            log_alpha_bar = torch.where(k == self.T - 1, last, log_alpha_bar)
        return (log_alpha_bar / 2).exp(), sqrt(-torch.expm1(log_alpha_bar))

    def log_snr_at(self, t: float) -> float:
        """Evaluate log(alpha_bar / (1 - alpha_bar)) at a real time in (0, T]."""
        log_alpha_bar = self.log_alpha_bar_at(t)
        return log_alpha_bar - math.log(-math.expm1(log_alpha_bar))

    def time_of_log_snr(self, log_snr: float) -> float:
        """Find the real time at which the log SNR has this value: the inverse of `log_snr_at`."""
        # The logarithm of the logistic function, without overflow on either side.
        return self.time_of(min(0.0, log_snr) - math.log1p(math.exp(-abs(log_snr))))

    def time_of(self, log_alpha_bar: float) -> float:
        """Find the real time at which log alpha_bar has this value: inverts `log_alpha_bar_at`.

        Args:
            log_alpha_bar: Value, at most 0. Below the last value of the table the result is T.
        """
        decrease, target = self._negative_log_alpha_bar, -log_alpha_bar
        if target >= decrease[-1]:
            return float(self.T)
        k = max(0, bisect.bisect_right(decrease, target) - 1)
        low, high = 0.0, 1.0
        # 53 halvings of a cell of length 1 reach the spacing of float64.
        for _ in range(53):
            middle = (low + high) / 2
            if -self._cubic(k, middle) < target:
                low = middle
            else:
                high = middle
        return k + low

    def _cubic(self, k: int, h: float) -> float:
        """Evaluate log alpha_bar at k + h, 0 <= h <= 1, by the Hermite cubic of cell k."""
        start, slope, square, cube = self._coefficients[k]
        if math.isinf(slope):
            # The last cell of a schedule without terminal signal, where sqrt(alpha_bar) is linear.
            return start + 2 * math.log1p(-h) if h < 1 else slope
        return start + h * (slope + h * (square + h * cube))

    @cached_property
    def _coefficients(self) -> list[tuple[float, float, float, float]]:
        """Coefficients of 1, h, h^2 and h^3 in each cell; infinite where alpha_bar ends at 0."""
        cells = []
        values, slopes = itertools.pairwise(self._values), itertools.pairwise(self._slopes)
        for (start, end), (slope, end_slope) in zip(values, slopes, strict=True):
            rise = end - start
            if math.isinf(rise):
                cells.append((start, end, end, end))
            else:
                square, cube = 3 * rise - 2 * slope - end_slope, slope + end_slope - 2 * rise
                cells.append((start, slope, square, cube))
        return cells

    @cached_property
    def _coefficient_table(self) -> Float64[Tensor, "steps 4"]:
        return torch.tensor(self._coefficients, dtype=torch.float64)

    @cached_property
    def _values(self) -> list[float]:
        return self.log_alpha_bar.tolist()

    @cached_property
    def _negative_log_alpha_bar(self) -> list[float]:
        return [-value for value in self._values]

    @cached_property
    def _slopes(self) -> list[float]:
        """Derivative of log alpha_bar at the integers, by second-order differences.

        It is limited to three times the gentler of the two neighbouring chords (all are negative),
        which keeps the cubic monotone.
        """
        chords = [chord for chord in self.log_alpha_bar.diff().tolist() if math.isfinite(chord)]
        # Without terminal signal the last chord is infinite. `_cubic` uses no slopes in that cell.
        chords += chords[-1:] * (self.T - len(chords))
        first, last = chords[0], chords[-1]
        if self.T > 1:
            first += (chords[0] - chords[1]) / 2
            last += (chords[-1] - chords[-2]) / 2
        inner = [(left + right) / 2 for left, right in itertools.pairwise(chords)]
        limits = [3 * max(pair) for pair in itertools.pairwise((chords[0], *chords, chords[-1]))]
        slopes = zip((first, *inner, last), limits, strict=True)
        return [min(0.0, max(slope, limit)) for slope, limit in slopes]
