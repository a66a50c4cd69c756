from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ddpm import figures

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
TABLE = {name: [0.1, 0.2, 0.3] for name in COLUMNS}


def every_figure() -> dict[str, Figure]:
    return {
        "forward": figures.forward_process(list(FRAMES), list(FRAMES), LABELS),
        "schedule": figures.schedule_coefficients(TABLE, "linear"),
        "prior": figures.prior_histogram(POINTS, 0.1),
        "samples": figures.samples_beside_truth(POINTS, POINTS, "caption"),
        "training": figures.training_curve(CURVE),
        "reverse": figures.reverse_process(FRAMES, FRAMES, LABELS),
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


@pytest.mark.parametrize("name", ["forward", "samples", "reverse"])
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
        figures.reverse_animation(FRAMES, FRAMES, LABELS, tmp_path / f"{name}.gif")
    figures.forward_animation(FRAMES, LABELS, tmp_path / "forward.gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    for name in ("a", "forward"):
        with Image.open(tmp_path / f"{name}.gif") as image:
            assert image.n_frames == 4
            assert image.info["loop"] == 0
