"""Show the forward process: from the data to noise, or almost, depending on the schedule."""

import numpy as np
import torch

from ddpm.core.compute import stream
from ddpm.data.scaling import Scaling
from ddpm.diffusion.process import diffuse, posterior, prior_gap, q_sample
from ddpm.diffusion.schedule import Schedule
from ddpm.plots import forward
from ddpm.plots.style import save
from stages.common.files import read_points, write_json
from stages.common.outputs import pending
from stages.common.params import load_params
from stages.common.paths import FORWARD, REPORTS, SCHEDULE_CSV, TRAIN
from stages.common.run import run
from stages.common.schedule import schedule_of
from stages.common.tables import write_table

# Fractions of T that the figure shows.
_TIMES = (0, 0.05, 0.1, 0.25, 1)
_FRAMES = 60
# Points that are diffused, for the histogram of x_T, and those of them that the figures show.
_DIFFUSED, _SHOWN = 20_000, 3000
# Rows of the table of coefficients: enough for a plot, and few enough for git.
_ROWS = 200


def main() -> None:
    """Write the figures, the table of coefficients and the prior gap."""
    params = load_params()
    schedule = schedule_of(params)
    points = torch.from_numpy(read_points(TRAIN, stage="generate", n=params.data.n_train)).double()
    x0 = Scaling.from_points(points).to_model(points)

    times = [round(schedule.T * part) for part in _TIMES]
    # Most happens early, so frames are dense near the data.
    frames = sorted({round(schedule.T * (k / (_FRAMES - 1)) ** 2) for k in range(_FRAMES)})
    gap = float(prior_gap(schedule, x0).mean())
    x0 = x0[:_DIFFUSED]
    stepwise = diffuse(
        schedule, x0, {*times, *frames}, generator=stream(params.seed, "diffuse/stepwise")
    )
    generator = stream(params.seed, "diffuse/closed")
    closed = [
        q_sample(schedule, x0, t, torch.randn(x0.shape, dtype=x0.dtype, generator=generator))
        for t in times
    ]
    table = _coefficients(schedule)

    write_json(FORWARD, {"prior_gap": gap})
    write_table(SCHEDULE_CSV, table)
    figures = {
        "forward": forward.forward_process(
            [_shown(stepwise[t]) for t in times],
            [_shown(x_t) for x_t in closed],
            [_label(schedule, f"{t}\n", t) for t in times],
        ),
        "schedule": forward.schedule_coefficients(table, params.schedule),
        "prior": forward.prior_histogram(stepwise[schedule.T].numpy(), gap),
    }
    for name, figure in figures.items():
        with pending(REPORTS / f"{name}.png") as path:
            save(figure, path)
    with pending(REPORTS / "forward.gif") as path:
        forward.forward_animation(
            np.stack([_shown(stepwise[t]) for t in frames]),
            [_label(schedule, f"{t:4d}  ", t) for t in frames],
            path,
        )


def _shown(x: torch.Tensor) -> np.ndarray:
    return x[:_SHOWN].numpy()


def _label(schedule: Schedule, text: str, t: int) -> str:
    alpha_bar = float(schedule.alpha_bar[t])
    digits = ".4f" if alpha_bar >= 0.001 else ".1e"
    return rf"t = {text}$\bar\alpha$ = {alpha_bar:{digits}}"


def _coefficients(schedule: Schedule) -> dict[str, list[float]]:
    """Tabulate the coefficients over t in 1 ... T, both included; at t = 0 log SNR is infinite."""
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
        "posterior_x0": [q.weight_x0 for q in posteriors],
        "posterior_x_t": [q.weight_x_t for q in posteriors],
        "posterior_variance": [q.variance for q in posteriors],
    }


if __name__ == "__main__":
    run(main)
