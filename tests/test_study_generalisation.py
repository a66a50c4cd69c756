import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_params
from exact_cases import gaussian_model

from benchmarks import study_generalisation
from benchmarks.resumable import Results, divergence
from benchmarks.study_generalisation import (
    TRAININGS,
    Cell,
    Sizes,
    Study,
    compare,
    figure,
    measure,
    shares,
    table,
)
from ddpm.core.params import Params
from ddpm.reference.distribution import ExactDistribution
from ddpm.training import progress

PIPELINE, NOT_AVERAGED, LONGER = TRAININGS
SIZES = Sizes(likelihood=20, tolerance=1e-2, points=10, times=4)


def test_networks_are_compared_with_truth_sample_and_each_other() -> None:
    truth = gaussian_model(T=100)
    samples = [truth.fresh(40, name) for name in ("first", "second")]
    optimal = [ExactDistribution.from_points(x0, truth.schedule).denoiser for x0 in samples]
    # The first has learned the distribution, the second has memorised its sample.
    models = [truth, gaussian_model(optimal[1], T=100)]
    ranges = compare(models, optimal, SIZES)
    assert list(ranges) == ["t_1_to_9", "t_10_to_100"]
    for measured in ranges.values():
        first, second = measured["truth_to_sample"]
        assert measured["to_truth"] == pytest.approx([0, second])
        assert measured["to_sample"] == pytest.approx([first, 0])
        assert measured["to_another"] == pytest.approx([second])
        assert measured["share"] == pytest.approx([0, 1])


def test_the_exact_denoiser_has_no_divergence() -> None:
    assert abs(divergence(gaussian_model(T=100), 20, 1e-2).value) < 0.05


@pytest.fixture
def study(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two cells, in a folder with small parameters."""
    write_params(tmp_path, small)
    monkeypatch.chdir(tmp_path)
    cells = [Cell(PIPELINE, 20), Cell(NOT_AVERAGED, 20)]
    return Study(cells, SIZES, None, Path("study.json"), Path("study.png"))


def test_every_cell_is_measured_once_with_networks_that_differ(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    measure(study._replace(cells=study.cells[:1]))
    original = study_generalisation.train
    monkeypatch.setattr(study_generalisation, "train", refuse)
    measure(study._replace(cells=study.cells[:1]))
    with pytest.raises(AssertionError, match="trained again"):
        measure(study)
    monkeypatch.setattr(study_generalisation, "train", original)
    measure(study)
    cells = Results.read(study.file).cells
    assert set(cells) == {cell.name for cell in study.cells}
    kl = [mean["value"] for cell in cells.values() for mean in cell["kl"]]
    assert len(set(kl)) == 6
    for cell in cells.values():
        assert min(cell["t_1_to_9"]["to_another"]) > 0
        assert len(set(cell["t_1_to_9"]["truth_to_sample"])) == 3


def test_an_interrupted_cell_keeps_its_networks(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress, "_CHECKPOINT_SECONDS", 0)
        patch.setattr(study_generalisation, "compare", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measure(study)
    assert not study.file.exists()
    measure(study._replace(cells=study.cells[:1]))
    assert capsys.readouterr().out.count("resuming training") == 3
    assert list(Path("checkpoints").iterdir()) == []


def test_trainings_change_what_they_are_named_for(params: Params) -> None:
    assert TRAININGS[PIPELINE](params) == params
    changed = TRAININGS[NOT_AVERAGED](params)
    assert (changed.loss.neighbours, changed.train) == (1, params.train)
    assert changed.loss.time_power == params.loss.time_power
    changed = TRAININGS[LONGER](params)
    assert (changed.loss, changed.train.steps) == (params.loss, 4 * params.train.steps)


def known(kl: float, to_truth: float, to_sample: float) -> dict[str, Any]:
    distances = {
        "to_truth": [to_truth] * 3,
        "to_sample": [to_sample] * 3,
        "to_another": [0.5, 1.0, 1.5],
        "share": [0.1, 0.2, 0.6],
    }
    ranges = dict.fromkeys(("t_1_to_9", "t_10_to_99", "t_100_to_1000"), distances)
    return {"kl": [{"value": kl + k, "se": 0.1} for k in (-1, 0, 1)]} | ranges


def test_a_network_from_which_points_run_away_has_no_divergence() -> None:
    model = gaussian_model(T=100)
    slope = torch.tensor([0.0])

    def repel(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return slope * x

    repelling = replace(model, denoiser=replace(model.denoiser, function=repel))
    assert study_generalisation._kl(repelling, SIZES) is not None
    for slope.data in (torch.tensor([30.0]), torch.tensor([1e9])):  # far away, or beyond the solver
        assert study_generalisation._kl(repelling, SIZES) is None
    cells = {
        Cell(PIPELINE, n).name: known(4.0, 1e-2, 1e-3) | {"kl": kl}
        for n, kl in ((10, [None] * 3), (20, [None, {"value": 2.0}, None]))
    }
    rows = table(Results(Path("study.json"), {}, cells)).splitlines()
    assert [row.split(" | ")[2] for row in rows[2:]] == ["infinite", "2 (1 of 3 seeds)"]
    figure(Results(Path("study.json"), {}, cells))


def test_tables_and_figure_show_the_means_over_seeds() -> None:
    cells = {
        Cell(PIPELINE, 1000).name: known(2.0, 1e-3, 1e-2),
        Cell(PIPELINE, 100).name: known(4.0, 1e-2, 1e-3),
        Cell(LONGER, 100).name: known(8.0, 1e-3, 1e-2),
    }
    results = Results(Path("study.json"), {}, cells)
    ranges = ["t = 1 to 9", "t = 10 to 99", "t = 100 to 1000"]
    header, _, *rows = table(results).splitlines()
    assert header == f"| points | training | KL | {' | '.join(ranges)} |"
    distances = " | ".join(["1.0e-02 / 1.0e-03 / 1.0e+00"] * 3)
    assert rows[0] == f"| 100 | as in the pipeline | 4, sd 1 | {distances} |"
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        ["| 1,000", "as in the pipeline"],
        ["| 100", "4 times the steps"],
    ]
    share = " | ".join(["0.30, sd 0.26"] * 3)
    assert shares(results).splitlines()[2] == f"| 100 | as in the pipeline | {share} |"
    kl = figure(results).axes[0]
    assert [list(line.get_ydata()) for line in kl.lines[:3]] == [[4, 2], [], [8]]
    assert [line.get_linestyle() for line in kl.lines[:3]] == ["-", "None", "None"]
    assert math.isclose(float(kl.lines[0].get_xdata()[0]), 100)
