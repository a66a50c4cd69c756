from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

from ddpm import figures, figures_truth

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(50, 2)).astype(np.float32)
FRAMES = RNG.normal(size=(4, 30, 2)).astype(np.float32)
LABELS = [f"t = {t}" for t in (3, 2, 1, 0)]
CURVE = {
    "step": [1.0, 2.0],
    "loss": [0.5, 0.4],
    "val_loss": [0.6, 0.5],
    "lr": [0.1, 0.0],
    "grad_norm": [1.0, 0.9],
}
COLUMNS = (
    *("t", "beta", "alpha_bar", "sqrt_alpha_bar", "sigma", "log_snr"),
    *("posterior_x0", "posterior_x_t", "posterior_variance"),
)
ERRORS = {name: [0.1, 0.2] for name in ("t", "loss", "optimal", "excess", "excess_nats")}
MEMORY = {name: [0.1, 0.2] for name in ("t", "to_truth", "to_sample", "truth_to_sample")}
SIDE = np.linspace(-2, 2, 9)
GRID = np.stack([axis.ravel() for axis in np.meshgrid(SIDE, SIDE)], axis=1)
RNG_FIELDS = RNG.normal(size=(2, 81, 2))
LOG_DENSITY = -np.stack([(GRID**2).sum(1)] * 2)
SURFACE = LOG_DENSITY[0].reshape(9, 9)
ESTIMATE = {"value": 0.1, "se": 0.01, "floor": 0.0}
ARM = {"energy_distance": ESTIMATE, "log_density": {"value": 0.5, "se": 0.1}}
ATTRIBUTION = {
    **{
        name: ARM for name in ("exact_sampler", "network_solver", "network_sampler", "exact_solver")
    },
    "truth": {"log_density": {"value": 0.6, "se": 0.01}},
    "t": 0,
}
CELL = "ddim/trailing/5/network"
ROWS = [
    {
        "sampler": "ddim",
        "spacing": "trailing",
        "evaluations": evaluations,
        "denoiser": denoiser,
        "energy_distance": distance,
        "energy_distance_se": "0.001",
        "energy_distance_floor": "0.0001",
    }
    for denoiser in ("network", "exact")
    for evaluations, distance in (("5", "0.1"), ("10", "-0.0002"))
]
TABLE = {name: [0.1, 0.2, 0.3] for name in COLUMNS}


def every_figure() -> dict[str, Figure]:
    return {
        "forward": figures.forward_process(list(FRAMES), list(FRAMES), LABELS),
        "schedule": figures.schedule_coefficients(TABLE, "linear"),
        "prior": figures.prior_histogram(POINTS, 0.1),
        "samples": figures.samples_beside_truth(POINTS, POINTS, "caption"),
        "training": figures.training_curve(CURVE),
        "reverse": figures.reverse_process(FRAMES, FRAMES, FRAMES, LABELS),
        "trajectories": figures.trajectories(FRAMES, FRAMES, FRAMES, POINTS),
        "denoising": figures_truth.denoising_error(ERRORS, MEMORY, "learned"),
        "score": figures_truth.score_fields(
            np.array([1.0, 2.0]), np.array([0.1, 0.9]), GRID, *[RNG_FIELDS] * 2, LOG_DENSITY
        ),
        "density": figures_truth.densities("KL", SURFACE, SURFACE - 0.1, np.array(1.25)),
        "attribution": figures_truth.attribution(ATTRIBUTION),
        "samplers": figures_truth.samplers(ROWS),
        "few_steps": figures_truth.few_steps({CELL: POINTS}, [[CELL, CELL]]),
    }


@pytest.mark.parametrize("name", every_figure())
def test_the_same_data_give_the_same_bytes_whatever_the_user_prefers(
    tmp_path: Path, name: str
) -> None:
    figures.save(every_figure()[name], tmp_path / "a.png")
    figures.save(every_figure()[name], tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert len(content) < 300_000
    assert b"Software" not in content
    assert b"matplotlib" not in content


def test_figures_start_from_matplotlibs_defaults() -> None:
    assert mpl.rcParams["figure.facecolor"] == "white"
    assert mpl.rcParams["font.family"] == ["sans-serif"]


@pytest.mark.parametrize("name", ["forward", "samples", "reverse", "trajectories", "few_steps"])
def test_points_are_shown_with_equal_aspect(name: str) -> None:
    panels = every_figure()[name].axes
    assert len(panels) >= 2
    for axes in panels:
        assert axes.get_aspect() == 1
        assert axes.get_xlim() == axes.get_ylim()


def test_samples_that_are_out_of_sight_are_counted() -> None:
    far = np.concatenate([POINTS * 0.1, np.full((3, 2), 9.0, np.float32)])
    titles = [axes.get_title() for axes in figures.samples_beside_truth(far[:50], far, "").axes]
    assert titles == ["truth: 50 points", "samples of the model: 53 points, 3 outside"]


def test_an_animation_has_every_frame_and_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figures.reverse_animation(FRAMES, FRAMES, FRAMES, LABELS, tmp_path / f"{name}.gif")
    figures.forward_animation(FRAMES, LABELS, tmp_path / "forward.gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    for name in ("a", "forward"):
        with Image.open(tmp_path / f"{name}.gif") as image:
            assert image.n_frames == 4
            assert image.info["loop"] == 0


def test_images_have_their_pixels_middles_where_the_grid_is() -> None:
    for name, panels in (("density", slice(0, 3)), ("score", slice(0, 2))):
        for axes in every_figure()[name].axes[panels]:
            left, right, bottom, top = axes.images[0].get_extent()
            side = 9
            reach = 1.25 if name == "density" else 2.0
            assert left + (right - left) / side / 2 == pytest.approx(-reach)
            assert top - (top - bottom) / side / 2 == pytest.approx(reach)
            assert axes.images[0].origin == "lower"


def test_an_arrow_is_no_longer_than_one() -> None:
    figure = figures_truth.score_fields(
        np.array([1.0]), np.array([0.5]), GRID, *[100 * RNG_FIELDS[:1]] * 2, LOG_DENSITY[:1]
    )
    for axes in figure.axes[:2]:
        (arrows,) = [one for one in axes.collections if isinstance(one, Quiver)]
        lengths = np.hypot(arrows.U, arrows.V)
        np.testing.assert_allclose(lengths, 1)


def test_what_cannot_be_told_from_truth_is_drawn_on_the_edge_of_the_floor() -> None:
    for axes in figures_truth.samplers(ROWS).axes:
        (line,) = [one for one in axes.lines if len(one.get_xdata()) == 2]
        assert list(line.get_xdata()) == [5, 10]
        assert list(line.get_ydata()) == pytest.approx([0.0999, 0.001])
