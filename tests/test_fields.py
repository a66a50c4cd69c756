from dataclasses import replace

import pytest
import torch
from exact_cases import SCALING, gaussian_model, shifted

from ddpm.studies.fields import density_fields, score_fields


def test_score_fields_are_sigma_times_the_scores_of_model_and_truth() -> None:
    exact = gaussian_model(T=100).exact
    model = gaussian_model(shifted(exact.denoiser, "eps", 0.1), T=100)
    fields = score_fields(model, [1.5, 60.0], reach=2.0, grid=5)
    assert fields["score_at"].shape == (25, 2)
    torch.testing.assert_close(
        fields["score_truth"] - fields["score_model"],
        torch.full((2, 25, 2), 0.1).double(),
        rtol=0,
        atol=1e-8,
    )
    sigma = exact.schedule.levels(60.0)[1]
    assert float(fields["score_sigma"][1]) == sigma
    expected = sigma * exact.score(fields["score_at"], 60.0)
    torch.testing.assert_close(fields["score_truth"][1], expected)
    torch.testing.assert_close(
        fields["score_log_density"][1], exact.log_density(fields["score_at"], 60.0)
    )


def test_densities_are_in_data_units_and_integrate_to_one() -> None:
    fields = density_fields(gaussian_model(T=200), reach=3.0, grid=61, tolerance=1e-5)
    for name in ("density_truth", "density_model"):
        density = fields[name].exp()
        assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=1e-3)
    # In data units the mean is (0, 0), the middle of the square.
    torch.testing.assert_close(fields["density_truth"], fields["density_truth"].T)
    torch.testing.assert_close(fields["density_model"], fields["density_truth"], rtol=0, atol=0.05)


def test_rows_of_densities_are_y_and_columns_are_x() -> None:
    model = gaussian_model(T=200)
    # With this scaling the mean of the data is (0.5, 1).
    moved = replace(SCALING, mean=SCALING.mean + torch.tensor([0.5, 1.0]).double())
    fields = density_fields(replace(model, scaling=moved), reach=3.0, grid=61, tolerance=1e-4)
    for name in ("density_truth", "density_model"):
        row, column = divmod(int(fields[name].argmax()), 61)
        assert -3 + 0.1 * column == pytest.approx(0.5)
        assert -3 + 0.1 * row == pytest.approx(1.0)
