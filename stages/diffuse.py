"""Show the forward process: from the spiral to noise, or not quite, as the schedule has it."""

import numpy as np
import torch

from ddpm import figures
from ddpm.datasets import Scaling
from ddpm.files import read_points, write_csv, write_json
from ddpm.params import load
from ddpm.process import diffuse, posterior, prior_gap, q_sample
from ddpm.runtime import stream
from ddpm.schedules import Schedule, schedule_of
from stages.common import FORWARD, REPORTS, SCHEDULE_CSV, TRAIN, run

_MOMENTS = (0, 0.05, 0.1, 0.25, 1)
_FRAMES = 60
_SHOWN = 3000
# Of the table of coefficients: what a plot can show, and git can bear.
_ROWS = 200


def main() -> None:
    """Write the figures, the table of coefficients and the prior gap."""
    params = load()
    schedule = schedule_of(params)
    points = torch.from_numpy(read_points(TRAIN, stage="generate", n=params.data.n_train)).double()
    x0 = Scaling.of(points).to_model(points)

    moments = [round(schedule.T * part) for part in _MOMENTS]
    # Most happens early: frames are dense near the data.
    frames = sorted({round(schedule.T * (k / (_FRAMES - 1)) ** 2) for k in range(_FRAMES)})
    steps = diffuse(
        schedule, x0, {*moments, *frames}, generator=stream(params.seed, "diffuse/stepwise")
    )
    generator = stream(params.seed, "diffuse/closed")
    closed = [
        q_sample(schedule, x0, t, torch.randn(x0.shape, dtype=x0.dtype, generator=generator))
        for t in moments
    ]
    gap = float(prior_gap(schedule, x0).mean())
    table = _table(schedule)

    write_json(FORWARD, {"prior_gap": gap})
    write_csv(SCHEDULE_CSV, table)
    figures.save(
        figures.forward_process(
            [_shown(steps[t]) for t in moments],
            [_shown(x_t) for x_t in closed],
            [_label(schedule, f"{t}\n", t) for t in moments],
        ),
        REPORTS / "forward.png",
    )
    figures.save(figures.schedule_coefficients(table, params.schedule), REPORTS / "schedule.png")
    figures.save(figures.prior_histogram(steps[schedule.T].numpy(), gap), REPORTS / "prior.png")
    figures.forward_animation(
        np.stack([_shown(steps[t]) for t in frames]),
        [_label(schedule, f"{t:4d}  ", t) for t in frames],
        REPORTS / "forward.gif",
    )


def _shown(x: torch.Tensor) -> np.ndarray:
    return x[:_SHOWN].numpy()


def _label(schedule: Schedule, text: str, t: int) -> str:
    alpha_bar = float(schedule.alpha_bar[t])
    digits = ".4f" if alpha_bar >= 0.001 else ".1e"
    return rf"t = {text}$\bar\alpha$ = {alpha_bar:{digits}}"


def _table(schedule: Schedule) -> dict[str, list[float]]:
    """Coefficients over t in 1 ... T, both included; at t = 0 the log SNR is infinite."""
    rows = min(schedule.T, _ROWS)
    times = [1 + round((schedule.T - 1) * k / max(1, rows - 1)) for k in range(rows)]
    posteriors = [posterior(schedule, t, t - 1) for t in times]
    return {
        "t": [float(t) for t in times],
        "beta": schedule.beta[times].tolist(),
        "alpha_bar": schedule.alpha_bar[times].tolist(),
        "sqrt_alpha_bar": schedule.sqrt_alpha_bar[times].tolist(),
        "sigma": schedule.sigma[times].tolist(),
        "log_snr": schedule.log_snr[times].tolist(),
        "posterior_x0": [q.x0 for q in posteriors],
        "posterior_x_t": [q.x_t for q in posteriors],
        "posterior_variance": [q.variance for q in posteriors],
    }


if __name__ == "__main__":
    run(main)
