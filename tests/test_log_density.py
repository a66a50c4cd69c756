import torch
from exact_cases import gaussian_model, shifted

from ddpm.reference.log_density import LogDensityMeasure


def test_a_stray_counts_as_the_least_likely_true_point() -> None:
    model = gaussian_model(T=200)
    true_points = model.scaling.to_data(model.fresh(1000, "true"))
    measure = LogDensityMeasure(model, true_points)
    samples = torch.cat([true_points[:99], torch.full((1, 2), 1e3).double()])
    measured = measure(samples, "samples")
    assert measured.strays == 0.01
    assert measured.mean.value > measure.truth.value - 1
    true_measured = measure(true_points, "true")
    assert (true_measured.mean, true_measured.strays) == (measure.truth, 0.0)


def test_density_of_samples_is_at_0_even_where_the_models_flow_ends_at_1() -> None:
    exact = gaussian_model(T=200)
    model = gaussian_model(shifted(exact.denoiser, "x0", 0.0), T=200)
    assert model.t == 1
    true_points = model.scaling.to_data(model.fresh(100, "true"))
    assert LogDensityMeasure(model, true_points).t == 0


def test_density_of_data_without_noise_is_at_1() -> None:
    model = gaussian_model(T=200, noise=0.0)
    true_points = model.scaling.to_data(model.fresh(100, "true"))
    assert LogDensityMeasure(model, true_points).t == 1
