import functools
import inspect
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

from ddpm.plots import fields, forward, samplers, samples, training
from ddpm.plots.style import animate, save

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(50, 2)).astype(np.float32)
FRAMES = RNG.normal(size=(4, 30, 2)).astype(np.float32)
LABELS = [f"t = {t}" for t in (3, 2, 1, 0)]
TRAINING = pd.DataFrame(
    {
        "step": [1.0, 2.0],
        "loss": [0.5, 0.4],
        "val_loss": [0.6, 0.5],
        "lr": [0.1, 0.0],
        "grad_norm": [1.0, 0.9],
    }
)
SCHEDULE = {
    name: [0.1, 0.2, 0.3]
    for name in (
        *("t", "beta", "alpha_bar", "sqrt_alpha_bar", "sigma", "log_snr"),
        *("posterior_x0", "posterior_x_t", "posterior_variance"),
    )
}
ERRORS = pd.DataFrame(
    {name: [0.1, 0.2] for name in ("t", "loss", "optimal", "excess", "excess_nats")}
)
MEMORY = pd.DataFrame(
    {
        name: [0.1, 0.2]
        for name in ("t", "to_truth", "to_sample", "truth_to_sample", "share", "share_se")
    }
)
SIDE = np.linspace(-2, 2, 9)
GRID = np.stack([axis.ravel() for axis in np.meshgrid(SIDE, SIDE)], axis=1)
SCORES = RNG.normal(size=(2, 81, 2))
LOG_DENSITY = -np.stack([(GRID**2).sum(1)] * 2)
SURFACE = LOG_DENSITY[0].reshape(9, 9)
ATTRIBUTION = {
    "t": 0,
    "truth": {"log_density": {"value": 0.6, "se": 0.01}},
    **{
        name: {
            "energy_distance": {"value": 0.1, "se": 0.01, "floor": 0.0},
            "log_density": {"value": 0.5, "se": 0.1},
        }
        for name in ("exact_sampler", "network_solver", "network_sampler", "exact_solver")
    },
}
CELL = "ddim/trailing/5/network"
SAMPLERS = pd.DataFrame(
    [
        {
            "sampler": sampler,
            "spacing": "trailing",
            "evaluations": evaluations,
            "denoiser": denoiser,
            "reverse_kl": kl,
            "reverse_kl_se": 0.001,
            "folded": folded,
            "strays": strays,
        }
        for denoiser in ("network", "exact")
        for sampler, evaluations, kl, folded, strays in (
            ("ddim", 5, 0.1, 0.2, 0.3),
            ("ddim", 10, 0.05, 0.0, 0.1),
            ("ddim", 20, -0.0002, 0.0, 0.0),
            ("ddpm", 20, math.nan, math.nan, 0.05),
        )
    ]
)

DISTANCES = np.abs(POINTS[:, 0])

FIGURES: dict[str, Callable[[], Figure]] = {
    "forward": lambda: forward.forward_process(list(FRAMES), list(FRAMES), LABELS),
    "schedule": lambda: forward.schedule_coefficients(SCHEDULE, "linear"),
    "prior": lambda: forward.prior_histogram(POINTS, 0.1),
    "samples": lambda: samples.samples_beside_truth(
        POINTS, POINTS, DISTANCES, DISTANCES, "caption"
    ),
    "training": lambda: training.training_curve(TRAINING, 0.1),
    "reverse": lambda: samples.reverse_process(FRAMES, FRAMES, FRAMES, LABELS),
    "trajectories": lambda: samples.trajectories(FRAMES, FRAMES, FRAMES, POINTS),
    "denoising": lambda: training.denoising_error(ERRORS, MEMORY),
    "score": lambda: fields.score_fields(
        np.array([1.0, 2.0]), np.array([0.1, 0.9]), GRID, SCORES, SCORES, LOG_DENSITY
    ),
    "density": lambda: fields.densities("KL", SURFACE, SURFACE - 0.1, np.array(1.25)),
    "attribution": lambda: samplers.attribution(ATTRIBUTION),
    "samplers": lambda: samplers.samplers(SAMPLERS),
    "few_steps": lambda: samplers.few_steps(
        {CELL: POINTS}, [[CELL, CELL]], {CELL: "0.1 nats"}, SURFACE, 1.25
    ),
}
ANIMATIONS: dict[str, Callable[[Path], None]] = {
    "forward": lambda path: forward.forward_animation(FRAMES, LABELS, path),
    "reverse": lambda path: samples.reverse_animation(FRAMES, FRAMES, FRAMES, LABELS, path),
}
USER_STYLE = {
    "font.size": 30,
    "font.family": "serif",
    "figure.dpi": 50,
    "figure.facecolor": "black",
    "axes.grid": True,
    "lines.linewidth": 7,
}


def test_every_figure_and_animation_is_tested() -> None:
    source = inspect.getsource(sys.modules[__name__])
    for module in (forward, training, samples, fields, samplers):
        for name, function in vars(module).items():
            public = inspect.isfunction(function) and not name.startswith("_")
            if public and function.__module__ == module.__name__:
                assert f"{module.__name__.rpartition('.')[2]}.{name}(" in source, name


def saved(figure: Figure) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figure.png")
        save(figure, path)
        return path.read_bytes()


@functools.cache
def png(name: str) -> bytes:
    """The figure as it was drawn first, without a style of the user's."""
    return saved(FIGURES[name]())


def gif(name: str, folder: Path) -> bytes:
    path = folder / f"{name}.gif"
    ANIMATIONS[name](path)
    return path.read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_data_give_the_same_bytes_whatever_the_user_prefers(name: str) -> None:
    content = png(name)
    before = dict(mpl.rcParams)
    with mpl.rc_context(USER_STYLE):
        preferred = dict(mpl.rcParams)
        assert saved(FIGURES[name]()) == content
        figure = FIGURES[name]()
        assert dict(mpl.rcParams) == preferred
    # Drawn under one style and saved under another.
    assert saved(figure) == content
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_small_and_names_no_software(name: str) -> None:
    content = png(name)
    assert len(content) < 300_000
    assert b"Software" not in content
    assert b"matplotlib" not in content


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animation_has_every_frame_and_the_same_bytes_whatever_the_user_prefers(
    tmp_path: Path, name: str
) -> None:
    content = gif(name, tmp_path)
    with Image.open(tmp_path / f"{name}.gif") as image:
        assert image.n_frames == 4
        assert image.info["loop"] == 0
    with mpl.rc_context(USER_STYLE):
        before = dict(mpl.rcParams)
        assert gif(name, tmp_path) == content
        assert dict(mpl.rcParams) == before


def test_frames_are_the_same_if_only_what_moves_is_drawn_anew(tmp_path: Path) -> None:
    def frames(name: str, *, all_of_it: bool) -> list[np.ndarray]:
        figure = Figure(figsize=(2, 2), layout="constrained")
        axes = figure.subplots()
        (dot,) = axes.plot([0], [0], "o")
        axes.set(xlim=(-2, 2), ylim=(-2, 2))

        def show(k: int) -> None:
            dot.set_data([k / 4], [k / 8])
            axes.set_title(f"frame {k}")

        show(0)
        path = tmp_path / f"{name}.gif"
        animate(figure, show, 4, path, moving=() if all_of_it else [dot, axes.title])
        # Nothing is missing afterwards.
        save(figure, tmp_path / f"{name}.png")
        images = []
        with Image.open(path) as image:
            for k in range(image.n_frames):
                image.seek(k)
                images.append(np.asarray(image.convert("RGB")))
        with Image.open(tmp_path / f"{name}.png") as image:
            images.append(np.asarray(image.convert("RGB")))
        return images

    moving, everything = frames("moving", all_of_it=False), frames("all", all_of_it=True)
    assert len(moving) == len(everything) == 5
    assert not np.array_equal(moving[0], moving[3])
    for ours, theirs in zip(moving, everything, strict=True):
        # Each frame has a palette of its own.
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() < 40


@pytest.mark.parametrize("name", ["forward", "samples", "reverse", "trajectories", "few_steps"])
def test_points_are_shown_with_equal_aspect(name: str) -> None:
    panels = [axes for axes in FIGURES[name]().axes if axes.get_ylabel() != "density"]
    assert len(panels) >= 2
    for axes in panels:
        assert axes.get_aspect() == 1
        assert axes.get_xlim() == axes.get_ylim()


def test_samples_outside_the_panel_are_counted_in_its_title() -> None:
    distant = np.concatenate([POINTS * 0.1, np.full((3, 2), 9.0, np.float32)])
    figure = samples.samples_beside_truth(
        distant[:50], distant, DISTANCES[:50], DISTANCES[:1].repeat(53), ""
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["truth: 50 points", "samples of the model: 53 points, 3 outside"]


@pytest.mark.parametrize(
    ("name", "panels", "reach"), [("density", slice(0, 3), 1.25), ("score", slice(0, 2), 2.0)]
)
def test_pixels_are_centred_on_the_points_of_the_grid(
    name: str, panels: slice, reach: float
) -> None:
    for axes in FIGURES[name]().axes[panels]:
        (image,) = axes.images
        left, right, bottom, top = image.get_extent()
        assert left + (right - left) / 9 / 2 == pytest.approx(-reach)
        assert top - (top - bottom) / 9 / 2 == pytest.approx(reach)
        assert image.origin == "lower"


def test_arrows_longer_than_one_are_shortened_to_one() -> None:
    scores = 100 * SCORES[:1]
    figure = fields.score_fields(
        np.array([1.0]), np.array([0.5]), GRID, scores, scores, LOG_DENSITY[:1]
    )
    (arrows,) = [part for part in figure.axes[0].collections if isinstance(part, Quiver)]
    np.testing.assert_allclose(np.hypot(arrows.U, arrows.V), 1)


def test_small_values_are_arrows_and_lower_bounds_are_hollow() -> None:
    exact, network, strays = FIGURES["samplers"]().axes
    for axes in (exact, network):
        line, bound, value, small = axes.lines
        assert list(line.get_ydata()) == pytest.approx([0.1, 0.05, 0.002])
        assert [point.get_marker() for point in (bound, value, small)] == ["o", "o", "v"]
        colors = [point.get_markerfacecolor() for point in (bound, value)]
        assert colors == ["white", value.get_color()]
        assert [text.get_text() for text in axes.texts] == ["ddim trailing"]
    names = [text.get_text() for text in strays.texts]
    assert names == ["ddim trailing", "ddpm trailing"]
    heights = [text.get_position()[1] for text in strays.texts]
    assert heights[1] - heights[0] > 0.04
