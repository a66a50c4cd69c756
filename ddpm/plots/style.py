"""The style that all figures share, and functions that write figures and animations to files.

The bytes of a file depend on the data alone: the user's matplotlibrc is ignored, and the file
contains no date and no version. Decorate every function that draws a figure with `styled()`. Points
are arrays of shape (n, 2).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

Points = Float[np.ndarray, "n 2"]
OtherPoints = Float[np.ndarray, "m 2"]
Frames = Float[np.ndarray, "k n 2"]
Values = Sequence[float]

TRUTH, MODEL, NOISE = "#1b6ca8", "#d1495b", "#6c757d"
_MILLISECONDS, _MILLISECONDS_AT_END = 3600, 2000

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 130,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "legend.frameon": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Context manager, or decorator, inside which matplotlib draws in the style of this project."""
    with mpl.style.context(["default", _STYLE]):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG with a palette, a third as large as one in full colour."""
    _image(_draw(figure), colors=256).save(path, optimize=True)


@styled()
def animate(
    figure: Figure,
    show: Callable[[int], None],
    frames: int,
    path: Path | str,
    moving: Sequence[Artist] = (),
) -> None:
    """Write an animation as a GIF that loops forever.

    Args:
        figure: The figure.
        show: Updates the figure to frame k = 0 ... frames - 1.
        frames: Number of frames.
        path: File to write.
        moving: Everything that `show` updates, if the rest should be drawn only once, below it.
            That takes half the time.

    Example:
        >>> figure = Figure(figsize=(1, 1))
        >>> (dot,) = figure.subplots().plot([0], [0], "o")
        >>> animate(figure, lambda k: dot.set_data([k / 9], [0]), 10, "dot.gif")
    """
    show(0)
    # All frames share the layout of the first: computing it takes most of the time of a frame.
    images = [_image(_draw(figure), colors=64)]
    figure.set_layout_engine("none")
    if moving:
        for artist in moving:
            artist.set_animated(True)
        canvas = _draw(figure)
        background = canvas.copy_from_bbox(figure.bbox)
    for k in range(1, frames):
        show(k)
        if moving:
            canvas.restore_region(background)
            for artist in moving:
                figure.draw_artist(artist)
        else:
            canvas = _draw(figure)
        images.append(_image(canvas, colors=64))
    for artist in moving:
        artist.set_animated(False)
    # A GIF counts in hundredths of a second.
    durations = [10 * max(1, _MILLISECONDS // frames // 10)] * (frames - 1) + [_MILLISECONDS_AT_END]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def cloud(axes: Axes, points: Points, color: str, *, limit: float, size: float = 1.5) -> Line2D:
    """Draw points in the square [-limit, limit]^2, with equal aspect, and return their artist."""
    (dots,) = axes.plot(*points.T, ".", color=color, markersize=size, markeredgewidth=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    return dots


def count_outside(points: Points, limit: float) -> str:
    """Describe how many points lie outside [-limit, limit]^2; empty if there are none."""
    outside = int((np.abs(points) > limit).any(axis=1).sum())
    return f"{outside:,} outside" if outside else ""


def square_extent(reach: float, side: int) -> tuple[float, float, float, float]:
    """Extent of an image whose outermost pixels are centred at -reach and reach."""
    edge = reach * side / (side - 1)
    return (-edge, edge, -edge, edge)


@styled()
def _draw(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def _image(canvas: FigureCanvasAgg, colors: int) -> Image.Image:
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(colors)
