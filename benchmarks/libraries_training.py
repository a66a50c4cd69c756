"""The two trainings that `benchmarks.libraries` compares: ours, and that of smalldiffusion."""

import contextlib
import functools
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock, patch

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.resumable import train_seed
from ddpm.core.compute import cores, stream
from ddpm.core.params import Params
from ddpm.data import datasets
from ddpm.data.scaling import Scaling
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.predictions import PREDICTIONS, Batch
from ddpm.diffusion.schedule import Schedule
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.estimates import Mean
from ddpm.reference.model_under_test import ModelUnderTest
from ddpm.studies.likelihood import measure_likelihood
from stages import train
from stages.common.params import load_params, select

# True points behind each KL, how many of them check the method, and the solver's tolerance.
_N_LIKELIHOOD, _N_EXACT, _TOLERANCE = 10_000, 2, 1e-5
# A training with few steps cannot warm up for as many steps as the shipped one.
_MAX_WARMUP = 0.1


class Training(NamedTuple):
    """Seconds of a training, and KL(truth || model) at its end if it was measured."""

    seconds: float
    kl: Mean | None


def train_ours(steps: int, *, measured: bool = False) -> Training:
    """Run stage `train` with this number of steps and all else as shipped, on one torch thread.

    The time is that of the whole stage, which also reads the points and writes the model.
    """
    torch.set_num_threads(1)
    seconds, model = run_training(steps)
    return Training(seconds, measure_kl(model) if measured else None)


def run_training(steps: int) -> tuple[float, ModelUnderTest]:
    """Seconds that stage `train` takes for this number of steps, and the model."""
    params = cpu_params()
    warmup = min(params.train.warmup, round(_MAX_WARMUP * steps))
    settings = params.train.model_copy(update={"steps": steps, "warmup": warmup})
    run_stage, seconds = train.main, []

    def timed() -> None:
        start = time.perf_counter()
        run_stage()
        seconds.append(time.perf_counter() - start)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(train, "main", timed),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        model = train_seed(params.model_copy(update={"train": settings}), Path(folder))
    return seconds[0], model


def cpu_params() -> Params:
    """The parameters of params.yaml, on the CPU."""
    return load_params().model_copy(update={"device": "cpu"})


def measure_kl(model: ModelUnderTest) -> Mean:
    """KL(truth || model), as stage `measure_model` computes `likelihood.kl`."""
    torch.set_num_threads(1)
    likelihood = measure_likelihood(model, n=_N_LIKELIHOOD, n_exact=_N_EXACT, tolerance=_TOLERANCE)
    kl: Mean = likelihood["kl"]
    return kl


def train_smalldiffusion(steps: int, *, measured: bool = False) -> Training:
    """Train smalldiffusion for more steps, on all cores; the time is that of these steps."""
    torch.set_num_threads(cores())
    run = _SmallDiffusion.only()
    start = time.perf_counter()
    for _ in itertools.islice(run.training, steps):
        pass
    seconds = time.perf_counter() - start
    return Training(seconds, measure_kl(run.under_test()) if measured else None)


class _SmallDiffusion:
    """The toy example of smalldiffusion's README, on our training points.

    Model, schedule, batch and learning rate are those of the README. The rate is constant, so the
    beginning of a long training is a short one. Our points need no scaling: like those of its
    Swissroll they lie between about -1 and 1.
    """

    def __init__(self) -> None:
        # It imports torchvision, for images alone. PyPI's build does not load beside a CPU build of
        # torch, and diffusers must not take the stand-in for it.
        sys.modules["torchvision"] = MagicMock()
        from smalldiffusion import ScheduleLogLinear, TimeInputMLP, training_loop

        del sys.modules["torchvision"]

        params = cpu_params()
        self.seed, self.dataset = params.seed, select(params, "dataset", datasets.DATASETS)
        generator = stream(params.seed, "generate/train")  # of stage `generate`: the same points
        points = self.dataset.sample(params.data.n_train, generator=generator).float()
        torch.manual_seed(params.seed)
        self.model = TimeInputMLP(hidden_dims=(16, 128, 128, 128, 128, 16))
        self.schedule = ScheduleLogLinear(N=200, sigma_min=0.005, sigma_max=10)
        loader = DataLoader(_Points(points), batch_size=2048)
        # More epochs than anyone waits for. The loop yields before each step, so once already here.
        self.training = training_loop(loader, self.model, self.schedule, epochs=10**9)
        next(self.training)

    @classmethod
    @functools.cache
    def only(cls) -> "_SmallDiffusion":
        """The one training of this process."""
        return cls()

    def under_test(self) -> ModelUnderTest:
        """The model as it is now."""
        model = self.model.eval()
        return variance_exploding(model, self.schedule.sigmas, self.dataset, self.seed)


class _Points(Dataset[Tensor]):
    """Points, as smalldiffusion's own data sets hold them."""

    def __init__(self, points: Float[Tensor, "n 2"]) -> None:
        self._points = points

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> Tensor:
        return self._points[index]


def variance_exploding(
    eps_hat: Callable[[Batch, Float[Tensor, ""]], Batch],
    sigmas_ve: Float[Tensor, " times"],
    dataset: datasets.Dataset,
    seed: int,
) -> ModelUnderTest:
    """Wrap a function that estimates eps from x_ve = x_0 + sigma_ve eps and from sigma_ve.

    With x_ve = x_t / sqrt(alpha_bar_t) and sigma_ve = sigma_t / sqrt(alpha_bar_t) it estimates the
    eps of x_t = sqrt(alpha_bar_t) x_0 + sigma_t eps, in data units. t = 1 is the lowest sigma_ve.
    Densities are compared there, because such networks take log(sigma_ve).
    """
    log_alpha_bar = -torch.log1p(sigmas_ve.double().square())
    schedule = Schedule(torch.cat((log_alpha_bar.new_zeros(1), log_alpha_bar)))

    def function(x_t: Batch, t: Float[Tensor, "1"]) -> Batch:
        a, sigma = schedule.levels(float(t))
        return eps_hat(x_t / a, x_t.new_tensor(sigma / a))

    denoiser = Denoiser(function, PREDICTIONS["eps"], schedule, torch.float32, finite=False)
    data_units = Scaling(torch.zeros(2).double(), 1.0)
    exact = ExactDistribution.from_dataset(dataset, data_units, schedule)
    return ModelUnderTest(denoiser, exact, dataset, data_units, seed)
