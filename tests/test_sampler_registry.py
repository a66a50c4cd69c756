import math

import pytest
import torch
from conftest import shipped, shipped_schedule
from sampler_cases import EVERY_SAMPLER, gaussian_denoiser

from ddpm.core.errors import UserError
from ddpm.core.params import Params
from ddpm.core.settings import configure
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import sampling_times
from stages.common.sampler import sampler_of
from stages.common.schedule import schedule_of


def test_every_sampler_in_the_registry_is_tested() -> None:
    assert {type(sampler) for sampler in EVERY_SAMPLER} == set(SAMPLERS.values())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_with_its_section_of_the_shipped_params(name: str) -> None:
    sampler = configure("sampler", name, SAMPLERS, shipped()["samplers"], "samplers")
    denoiser = gaussian_denoiser(shipped_schedule("linear", 1000), mean=0.7, std=0.5)
    times = sampling_times("trailing", denoiser.schedule, 1 if sampler.adaptive else 1000)
    clean = 0.7 + 0.5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    n = 2000
    samples, evaluations = draw_samples(
        sampler, denoiser, times, n=n, block=n, seed=0, device="cpu", clean=clean
    )
    assert samples.shape == (n, 2)
    assert evaluations >= len(times)
    # Four standard errors of the mean and of the standard deviation, and 1 % for the steps.
    assert samples.mean(0).tolist() == pytest.approx([0.7] * 2, abs=4 * 0.5 / math.sqrt(n) + 0.01)
    assert samples.std(0).tolist() == pytest.approx([0.5] * 2, rel=4 / math.sqrt(2 * n) + 0.01)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_parameter_sampler_selects_the_sampler(params: Params, name: str) -> None:
    selected = params.model_copy(update={"sampler": name})
    assert isinstance(sampler_of(selected, schedule_of(params)), SAMPLERS[name])
    assert isinstance(sampler_of(params, schedule_of(params), name), SAMPLERS[name])


def test_an_unknown_sampler_is_refused_with_the_choices(params: Params) -> None:
    with pytest.raises(UserError, match=r"sampler is 'magic' but should be one of ddpm, ddim, heu"):
        sampler_of(params.model_copy(update={"sampler": "magic"}), schedule_of(params))


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_a_sampler_in_log_snr_is_refused_where_that_is_infinite(
    params: Params, name: str
) -> None:
    schedule = schedule_of(params).without_terminal_signal()
    selected = params.model_copy(update={"sampler": name})
    if SAMPLERS[name].uses_log_snr:
        with pytest.raises(
            UserError, match=rf"sampler {name} works in log SNR but with diffusion\.zero"
        ):
            sampler_of(selected, schedule)
    else:
        assert isinstance(sampler_of(selected, schedule), SAMPLERS[name])
