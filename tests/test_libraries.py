"""The comparison with other libraries; smalldiffusion itself is installed by `make bench` alone."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, shipped_schedule
from torch import Tensor

from benchmarks.libraries import Effort, Trained, fewest_steps, measure, search
from benchmarks.libraries_sampling import SCHEDULERS, diffusers_draw, our_draw
from benchmarks.libraries_table import table
from benchmarks.libraries_training import Training, variance_exploding
from ddpm.core.errors import UserError
from ddpm.data.datasets import Spiral
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.networks.mlp import ResidualMLP
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean
from ddpm.sampling.sampler import Sampler
from ddpm.studies.likelihood import measure_likelihood

pytestmark = [
    # diffusers converts tensors to arrays in a way that NumPy warns about.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
]
OURS, THEIRS = "libraries_training.train_ours", "libraries_training.train_smalldiffusion"


def test_an_exact_variance_exploding_network_has_no_divergence() -> None:
    # Its eps comes from the variance-preserving process of another schedule.
    schedule = shipped_schedule("linear", 1000)
    spiral, data_units = Spiral(noise=0.05), Scaling(torch.zeros(2).double(), 1.0)
    exact = ExactDistribution.from_dataset(spiral, data_units, schedule)

    def eps_hat(x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        t = schedule.time_of_log_snr(-2 * math.log(sigma_ve))
        _, eps = exact.denoiser(schedule.levels(t)[0] * x_ve.double(), t)
        return eps.float()

    model = variance_exploding(eps_hat, torch.logspace(-1.5, 1, 20), spiral, seed=0)
    assert model.t == 1
    measured = measure_likelihood(model, n=100, n_exact=2, tolerance=1e-4)
    assert abs(measured["kl"].value) < 0.002


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_both_loops_draw_the_same_samples(
    name: str, prediction: str, network: ResidualMLP, samplers: Mapping[str, Sampler]
) -> None:
    torch.nn.init.normal_(network.read_out.weight, generator=torch.Generator().manual_seed(0))
    schedule = shipped_schedule("linear", 100)
    denoiser = Denoiser(network.eval(), PREDICTIONS[prediction], schedule, torch.float32)
    ours = our_draw(denoiser, samplers[name], block=50)(10, 50)
    theirs = diffusers_draw(denoiser, name)(10, 50)
    # The tables of diffusers are float32, and steps from prediction eps magnify their rounding.
    assert float((ours - theirs).abs().max()) < 3e-3 * float(theirs.abs().max())


def recorded_search(name: str, minutes: float, kl: float) -> tuple[list[int], list[Trained]]:
    """A search in which a step takes a tenth of a second, and the steps that it asked for."""
    asked = []

    def train(function: str, *, steps: int, measured: bool) -> Training:
        assert (function, measured) == (name, True)
        asked.append(steps)
        return Training(steps / 10, Mean(kl, 0.001))

    return asked, search(train, name, minutes)


def test_a_search_ends_with_the_time_or_at_the_last_limit() -> None:
    # 100 seconds for 250 + 354 steps; then 500 steps are too many.
    asked, trainings = recorded_search(OURS, 100 / 60, kl=1.0)
    assert asked == [250, 354]
    assert [trained.steps for trained in trainings] == asked
    assert recorded_search(OURS, 100 / 60, kl=0.005)[0] == [250]


def test_a_search_continues_the_training_of_smalldiffusion_until_the_time_is_over() -> None:
    asked, trainings = recorded_search(THEIRS, 150 / 60, kl=1.0)
    assert asked == [1000, 414, 86]
    assert [trained.steps for trained in trainings] == [1000, 1414, 1500]


def test_the_fewest_steps_are_those_of_the_first_training_below_the_limit() -> None:
    trainings = [Trained(250, 0.3, 0.01), Trained(354, 0.05, 0.01), Trained(500, 0.04, 0.01)]
    assert fewest_steps(trainings, 0.05) == 354
    assert fewest_steps(trainings, 0.01) is None


def test_a_worker_can_choose_its_arithmetic_before_torch_is_imported() -> None:
    code = "import os; from benchmarks import libraries; libraries.unpin(); print(*os.environ)"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "OMP_NUM_THREADS" in ended.stdout
    assert "MKL_CBWR" not in ended.stdout


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="smalldiffusion is missing; `make bench` installs it"):
        measure(["training"], Effort(1, 1))


def results() -> dict[str, Any]:
    never: dict[str, Any] = {"limit": 0.01, "steps": None, "their_steps": None}
    seconds = {"ours": [1.0, 2.0, 4.0], "pinned": [2.0, 2.0, 2.0], "theirs": [100, 100, 300]}
    reached = {"limit": 0.1, "steps": 1414, "their_steps": 16000, "seconds": seconds}
    ours_only = {"limit": 0.05, "steps": 2000, "their_steps": None}
    cell = {"sampler": "ddim", "evaluations": 10, "n": 100, "threads": 2}
    slower = {"ours": [2.0, 2.0], "pinned": [4.0, 4.0], "theirs": [1.0, 1.9]}
    return {
        "training": {
            "trial": False,
            "minutes": 15,
            "rows": [
                reached,
                ours_only | {"seconds": seconds | {"theirs": []}},
                never | {"seconds": {"ours": [], "pinned": [], "theirs": []}},
            ],
        },
        "sampling": {"trial": False, "rows": [{"cell": cell, "seconds": slower}]},
    }


def table_of(values: dict[str, Any], folder: Path) -> list[str]:
    path = folder / "libraries.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return table(path).splitlines()


def test_the_table_has_medians_ranges_and_what_was_not_reached(tmp_path: Path) -> None:
    never = "not reached in 15 minutes"
    assert table_of(results(), tmp_path)[2:] == [
        "| training to KL 0.1 | 100 s, 16,000 steps | 2.00 s, 1,414 steps | 2.00 s"
        " | 75.0 (50.0 to 100) | 50.0 (50.0 to 150) |",
        f"| training to KL 0.05 | {never} | 2.00 s, 2,000 steps | 2.00 s | over 225 | over 450 |",
        f"| training to KL 0.01 | {never} | {never} | {never} |  |  |",
        "| `ddim`, 10 evaluations, 100 points, 2 threads | 69.0/s | 50.0/s | 25.0/s"
        " | 0.72 (0.50 to 0.95) | 0.36 (0.25 to 0.47) |",
        "",
        "In 1 of 1 cells our loop was the slower one in every round.",
    ]


def test_the_table_of_a_trial_run_says_so(tmp_path: Path) -> None:
    values = results()
    values["sampling"]["trial"] = True
    assert table_of(values, tmp_path)[0] == "**A trial run, not a result: sampling.**"
