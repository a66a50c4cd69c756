"""Sample a model of a file, each label as often as it occurs in the training points."""

import torch

from ddpm.core.compute import stream
from ddpm.core.errors import UserError
from ddpm.core.params import PointsParams
from ddpm.diffusion.guidance import guided
from ddpm.networks.model_file import load_model
from ddpm.sampling.loop import draw_samples
from ddpm.sampling.spacings import sampling_times
from stages.common.device import device_of
from stages.common.files import labels_of, read_labels, read_points, write_array
from stages.common.params import load_params
from stages.common.paths import MODEL, SAMPLES, TRAIN
from stages.common.run import run
from stages.common.sampler import sampler_of


def main() -> None:
    """Write the samples, in data units, and the label of each."""
    params = load_params(kind=PointsParams)
    settings, device = params.sample, device_of(params)
    model = load_model(MODEL, device)
    schedule, classes = model.denoiser.schedule, len(model.classes)
    sampler = sampler_of(params, schedule)
    times = sampling_times(settings.spacing, schedule, settings.steps)
    points = torch.from_numpy(read_points(TRAIN, stage="generate_points", n=params.data.n_train))
    labels = torch.from_numpy(
        read_labels(
            TRAIN,
            stage="generate_points",
            n=len(points),
            classes=max(1, len(model.source.classes)),
        )
    )
    if not classes:
        labels = torch.zeros_like(labels)
    chosen = torch.randint(
        len(labels), (settings.n,), generator=stream(model.seed, "sample/labels")
    )
    sampled_labels = labels[chosen]
    samples = torch.empty(settings.n, 2)
    for label in sampled_labels.unique().tolist():
        denoiser = model.denoiser
        if classes:
            denoiser = guided(model.given(label), model.given(None), settings.scale)
        mine = sampled_labels == label
        samples[mine] = draw_samples(
            sampler,
            denoiser,
            times,
            n=int(mine.sum()),
            block=settings.block,
            seed=_seed_of(model.seed, label),
            device=device,
            clean=model.scaling.to_model(points[labels == label]),
        ).x
    if not bool(samples.isfinite().all()):
        raise UserError(
            "sampling gave values that are not finite; lower sample.scale, or change sampler or"
            " schedule in params.yaml"
        )
    write_array(SAMPLES, model.scaling.to_data(samples).numpy())
    write_array(labels_of(SAMPLES), sampled_labels.numpy())


def _seed_of(seed: int, label: int) -> int:
    """Seed of the noise of one label."""
    generator = stream(seed, f"sample/label/{label}")
    return int(torch.randint(2**62, (), generator=generator))


if __name__ == "__main__":
    run(main)
