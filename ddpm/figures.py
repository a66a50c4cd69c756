"""Pictures and animations; with `figures_truth`, all that imports matplotlib.

Points are arrays of shape (n, 2). The bytes of a picture depend on nothing but its data: no user's
matplotlibrc, no date, no version in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from ddpm.files import replacing

Points = Float[np.ndarray, "n 2"]
OtherPoints = Float[np.ndarray, "m 2"]
Frames = Float[np.ndarray, "k n 2"]
Values = Sequence[float]

TRUTH, MODEL, NOISE = "#1b6ca8", "#d1495b", "#6c757d"
_MILLISECONDS_PER_FRAME, _MILLISECONDS_AT_END = 60, 2000

mpl.rcdefaults()
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 130,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.w_pad": 0.08,
        "legend.frameon": False,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG with a palette, which takes a third of the bytes."""
    image = _render(figure, colors=256)
    with replacing(path) as temporary:
        image.save(temporary, optimize=True)


def animate(figure: Figure, show: Callable[[int], None], frames: int, path: Path) -> None:
    """Write an endless GIF.

    Args:
        figure: Is drawn once for each frame.
        show: Puts frame k, 0 ... frames - 1, into the figure.
        frames: How many.
        path: Where to.
    """
    show(0)
    images = [_render(figure)]
    # The layout of the first frame serves all: solving it again is most of a frame's cost.
    figure.set_layout_engine("none")
    for k in range(1, frames):
        show(k)
        images.append(_render(figure))
    durations = [_MILLISECONDS_PER_FRAME] * (frames - 1) + [_MILLISECONDS_AT_END]
    with replacing(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:], duration=durations, loop=0
        )


def forward_process(
    stepwise: Sequence[Points], closed: Sequence[Points], labels: Sequence[str]
) -> Figure:
    """Moments from data to noise: step by step above, in closed form below."""
    figure = Figure(figsize=(1.9 * len(labels), 4.0), layout="constrained")
    rows = figure.subplots(2, len(labels), sharex=True, sharey=True)
    sides = ("step by step", "in one step")
    for axes_row, moments, side in zip(rows, (stepwise, closed), sides, strict=True):
        for axes, points in zip(axes_row, moments, strict=True):
            cloud(axes, points, TRUTH, limit=3.5)
        axes_row[0].set_ylabel(side)
    for axes, label in zip(rows[0], labels, strict=True):
        axes.set_title(label)
    figure.supxlabel("model units: standardised by one scale for both axes", fontsize=8)
    return figure


def forward_animation(frames: Frames, labels: Sequence[str], path: Path) -> None:
    """The data dissolving into noise."""
    figure = Figure(figsize=(3.6, 3.8), layout="constrained")
    axes = figure.subplots()
    dots = cloud(axes, frames[0], TRUTH, limit=3.5)

    def show(k: int) -> None:
        dots.set_data(*frames[k].T)
        axes.set_title(labels[k], family="monospace")

    animate(figure, show, len(frames), path)


def schedule_coefficients(table: Mapping[str, Values], name: str) -> Figure:
    """All coefficients of a schedule over t; `table` has the columns of reports/schedule.csv."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    contents = (
        ("what is left of the data, and the noise", ("alpha_bar", "sqrt_alpha_bar", "sigma")),
        ("variance of a step and of the posterior", ("beta", "posterior_variance")),
        ("weights of x0 and x_t in the mean of the posterior", ("posterior_x0", "posterior_x_t")),
        ("log signal-to-noise ratio", ("log_snr",)),
    )
    for axes, (title, columns) in zip(panels.flat, contents, strict=True):
        for column, style in zip(columns, ("-", "--", ":"), strict=False):
            axes.plot(table["t"], table[column], style, label=column)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend()
    panels[0, 1].set_yscale("log")
    for axes in panels[1]:
        axes.set_xlabel("t")
    figure.suptitle(f"schedule: {name}", fontsize=9)
    return figure


def prior_histogram(x_T: Points, prior_gap: float) -> Figure:
    """Coordinates of x_T over the density of N(0, 1) that sampling starts from."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    grid = np.linspace(-4, 4, 201)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    for k, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        axes.hist(
            x_T[:, k], bins=80, range=(-4, 4), density=True, color=TRUTH, alpha=0.6, label="$x_T$"
        )
        axes.plot(grid, density, color="black", linewidth=1.2, label="N(0, 1)")
        axes.set_xlabel(f"coordinate {k + 1}, model units")
        axes.legend()
    figure.suptitle(
        rf"prior gap: mean of KL($q(x_T | x_0)$ || N(0, I)) = {prior_gap:.3g} nats", fontsize=9
    )
    return figure


def samples_beside_truth(truth: Points, samples: OtherPoints, caption: str) -> Figure:
    """True points and samples, side by side."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    limit = 1.25
    for axes, points, color, title in zip(
        panels, (truth, samples), (TRUTH, MODEL), ("truth", "samples of the model"), strict=True
    ):
        cloud(axes, points, color, limit=limit, size=1.2)
        outside = _outside(points, limit)
        axes.set_title(f"{title}: {len(points):,} points" + f", {outside}" * bool(outside))
    figure.supxlabel(caption, fontsize=9)
    return figure


def training_curve(curve: Mapping[str, Values]) -> Figure:
    """Loss, learning rate and gradient norm; `curve` has the columns of reports/training.csv."""
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    loss, rate, norm = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    loss.plot(curve["step"], curve["loss"], color=NOISE, linewidth=1, label="training points")
    loss.plot(curve["step"], curve["val_loss"], color=MODEL, label="test points, averaged weights")
    loss.set_title("loss (most of it cannot be learned: see denoising.png)")
    loss.legend()
    rate.plot(curve["step"], curve["lr"], color=TRUTH)
    rate.set_title("learning rate")
    norm.plot(curve["step"], curve["grad_norm"], color=NOISE, linewidth=1)
    norm.set_title("gradient norm of one step")
    for axes in (loss, rate, norm):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    for axes in (rate, norm):
        axes.set_ylim(bottom=0)
    return figure


def reverse_process(x: Frames, x0_hat: Frames, optimal: Frames, labels: Sequence[str]) -> Figure:
    """Moments from noise to data: x_t, the model's prediction of x_0, and the best possible one."""
    figure = Figure(figsize=(1.6 * len(labels), 5.2), layout="constrained")
    rows = figure.subplots(3, len(labels), sharex=True, sharey=True)
    sides = (
        (x, NOISE, "$x_t$"),
        (x0_hat, MODEL, r"$\hat{x}_0$, model"),
        (optimal, TRUTH, r"$E[x_0\,|\,x_t]$, exact"),
    )
    for axes_row, (frames, color, side) in zip(rows, sides, strict=True):
        for axes, points in zip(axes_row, frames, strict=True):
            cloud(axes, points, color, limit=1.9)
            axes.set_xlabel(_outside(points, 1.9), fontsize=7)
        axes_row[0].set_ylabel(side)
    for axes, label in zip(rows[0], labels, strict=True):
        axes.set_title(label)
    return figure


def reverse_animation(
    x: Frames, x0_hat: Frames, optimal: Frames, labels: Sequence[str], path: Path
) -> None:
    """Noise becoming data: x_t beside the model's prediction of x_0 and the best possible one."""
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    sets = (x, x0_hat, optimal)
    panels = figure.subplots(1, len(sets), sharex=True, sharey=True)
    clouds = [
        cloud(axes, frames[0], color, limit=1.9)
        for axes, frames, color in zip(panels, sets, (NOISE, MODEL, TRUTH), strict=True)
    ]
    panels[1].set_title("the model's prediction of $x_0$")
    panels[2].set_title("the best possible one, exact")

    def show(k: int) -> None:
        for dots, frames in zip(clouds, sets, strict=True):
            dots.set_data(*frames[k].T)
        panels[0].set_title(rf"$x_t$ at {labels[k]}", family="monospace")

    animate(figure, show, len(x), path)


def trajectories(
    x: Frames, x0_hat: Frames, optimal: Frames, curve: OtherPoints, shown: int = 3
) -> Figure:
    """Single ways from noise to data, and what was predicted of their end on the way."""
    figure = Figure(figsize=(3.1 * shown, 3.7), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, shown, sharex=True, sharey=True)):
        cloud(axes, curve, "#d5d8dc", limit=1.9)
        axes.plot(*x[:, k].T, color=NOISE, linewidth=0.8, label="$x_t$")
        axes.plot(*x[0, k], "o", color=NOISE, markersize=4, label="start")
        axes.plot(
            *optimal[:, k].T, color=TRUTH, linewidth=2.6, alpha=0.5, label="exact $E[x_0|x_t]$"
        )
        axes.plot(*x0_hat[:, k].T, color=MODEL, linewidth=1, label=r"model's $\hat{x}_0$")
        axes.plot(*x[-1, k], "o", color="black", markersize=4, label="end")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _outside(points: Points, limit: float) -> str:
    outside = int((np.abs(points) > limit).any(axis=1).sum())
    return f"{outside:,} outside" if outside else ""


def cloud(axes: Axes, points: Points, color: str, *, limit: float, size: float = 1.5) -> Line2D:
    """Points in the square [-limit, limit]^2, equal aspect."""
    (dots,) = axes.plot(*points.T, ".", color=color, markersize=size, markeredgewidth=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    return dots


def _render(figure: Figure, colors: int = 64) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(colors)
