import torch
from exact_cases import SCALING, gaussian_model

from ddpm.core.compute import stream


def test_fresh_points_are_new_for_each_name() -> None:
    model = gaussian_model(T=100)
    first, second = model.fresh(5, "first"), model.fresh(5, "second")
    assert torch.equal(first, model.fresh(5, "first"))
    assert not torch.equal(first, second)


def test_points_are_noised_only_after_0() -> None:
    model = gaussian_model(T=100)
    x0 = model.fresh(5, "x0")
    assert torch.equal(model.noised(x0, 0, "x0"), x0)
    assert not torch.equal(model.noised(x0, 1, "x0"), x0)


def test_true_sets_are_all_different() -> None:
    model = gaussian_model(T=100)
    true_set, pairs = model.true_sets(4, 3, "sets")
    assert len(pairs) == 3
    sets = [true_set, *(points for pair in pairs for points in pair)]
    assert all(points.shape == (4, 2) for points in sets)
    assert len(torch.cat(sets).unique(dim=0)) == 7 * 4
    # In data units, from a stream for each.
    expected = SCALING.to_data(model.fresh(4, "sets/true/3"))
    assert torch.equal(pairs[1][0], expected)


def test_exact_x0_hat_is_the_posterior_mean_and_at_0_the_point() -> None:
    model = gaussian_model(T=100)
    x = torch.randn(3, 4, 2, generator=stream(0, "x"))
    x0_hat = model.exact_x0_hat([100, 30, 0], x)
    torch.testing.assert_close(x0_hat[2], x[2])
    expected = model.exact.posterior_mean(SCALING.to_model(x[1].double()), 30)
    torch.testing.assert_close(x0_hat[1], SCALING.to_data(expected).float())
