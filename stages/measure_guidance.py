"""Measure guided samplers against the conditional and the tilted distribution, in nats."""

import math
from typing import Any

import numpy as np
import torch

from ddpm.core.compute import stream
from ddpm.core.params import GuidanceParams
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.guidance import Sources, guided
from ddpm.networks.model_file import load_model
from ddpm.reference.distribution import ExactDistribution
from ddpm.reference.tilted import TiltedDistribution
from ddpm.sampling.one_step import DDPM, ODE
from ddpm.sampling.spacings import sampling_times
from ddpm.studies.guidance import GuidanceStudy, class_divergence
from stages.common.files import refuse_other_points, write_arrays, write_json
from stages.common.guidance import guidance_of
from stages.common.params import load_params
from stages.common.paths import GUIDANCE_CSV, GUIDANCE_JSON, GUIDE, GUIDED, MODEL, TRAIN
from stages.common.run import run
from stages.common.tables import write_table

# Steps of the stochastic sampler.
_DDPM_STEPS = 200


def main() -> None:
    """Write a table over the scales, the metrics of the chosen guidance, and what figures need."""
    params = load_params(kind=GuidanceParams)
    settings, label = params.measure_guidance, params.guidance.label
    model, guide = load_model(MODEL), load_model(GUIDE)
    refuse_other_points(model.description.data_sha256, MODEL, TRAIN)
    schedule, dataset = model.denoiser.schedule, model.dataset
    exact = ExactDistribution.from_dataset(dataset, model.scaling, schedule)
    flow, start = ODE(tolerance=settings.tolerance), [float(schedule.T)]
    ddpm = DDPM(variance="posterior")
    steps = sampling_times("log_snr", schedule, min(_DDPM_STEPS, schedule.T))
    denoisers = {
        "exact": Sources(exact.given(label).denoiser, exact.denoiser),
        "network": Sources(model.given(label), model.given(None), guide.given(label)),
    }

    def study_of(scale: float) -> GuidanceStudy:
        return GuidanceStudy(
            TiltedDistribution(exact, label, scale),
            dataset,
            model.scaling,
            sets=settings.sets,
            points=settings.points,
            seed=model.seed,
        )

    def measure(
        study: GuidanceStudy, denoiser: Denoiser
    ) -> tuple[dict[str, Any], np.ndarray, torch.Tensor]:
        nats, x = study.density(flow, denoiser, start)
        lost, log_ratio = study.reverse(denoiser, tolerance=settings.tolerance)
        return nats._asdict() | lost._asdict(), data_units(x), log_ratio

    def data_units(x: torch.Tensor) -> np.ndarray:
        points: np.ndarray = model.scaling.to_data(x).float().numpy()
        return points

    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for scale in settings.scales:
        study = study_of(scale)
        tilted = study.tilted
        itself = {
            "tilted_entropy": tilted.entropy,
            "tilted_wrong_class": tilted.mean(study.wrong_class(tilted.grid)),
            "none_to_tilted": study.conditional_to_tilted(),
        }
        for name, (conditional, null, _) in denoisers.items():
            denoiser = guided(conditional, null, scale)
            values, x, _ = measure(study, denoiser)
            rows.append({"scale": scale, "denoiser": name} | _flat(values) | itself)
            arrays[f"flow/{name}/{scale:g}"] = x
        drawn, points = study.drawn(ddpm, guided(*denoisers["network"][:2], scale), steps)
        rows.append({"scale": scale, "denoiser": "network, ddpm"} | _flat(drawn._asdict()) | itself)
        arrays[f"ddpm/network/{scale:g}"] = data_units(points)
        arrays[f"tilted/{scale:g}"] = _square(tilted.region_mass)
        shown = tilted.sample(len(points), generator=stream(model.seed, "guidance/shown"))
        arrays[f"tilted/itself/{scale:g}"] = data_units(shown)

    study = study_of(params.guidance.scale)
    guidance = guidance_of(params)
    chosen, arrays["chosen"], log_ratio = measure(study, guidance.apply(denoisers["network"]))
    arrays["chosen_ratio"] = _square(-log_ratio.nan_to_num())
    arrays["chosen_held"] = _square((~log_ratio.isnan()).double())
    arrays["chosen_tilted"] = _square(study.tilted.region_mass)
    arrays["conditional"] = _square(TiltedDistribution(exact, label, 1.0).region_mass)
    arrays["whole"] = _square(TiltedDistribution(exact, label, 0.0).weights)
    side = torch.stack((study.tilted.side, study.tilted.side), dim=1)
    arrays["side"] = data_units(side)

    divergences = {
        name: class_divergence(
            exact if which is None else exact.given(which),
            model.given(which),
            n=settings.n_likelihood,
            seed=model.seed,
        )
        for name, which in (
            *((name, k) for k, name in enumerate(dataset.classes)),
            ("null", None),
        )
    }
    write_json(GUIDANCE_JSON, {"guidance": chosen, "kl": divergences})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_table(GUIDANCE_CSV, {key: [row.get(key, math.nan) for row in rows] for key in columns})
    write_arrays(GUIDED, arrays)


def _square(values: torch.Tensor) -> np.ndarray:
    """Values on the grid, as an image whose rows are y."""
    side = math.isqrt(len(values))
    image: np.ndarray = values.view(side, side).T.float().numpy()
    return image


def _flat(values: dict[str, Any]) -> dict[str, float]:
    """Estimates as two columns, the value and its standard error."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, tuple):
            flat[key], flat[f"{key}_se"] = value
        else:
            flat[key] = value
    return flat


if __name__ == "__main__":
    run(main)
