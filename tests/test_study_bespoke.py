from exact_cases import gaussian_model

from benchmarks.resumable import Results
from benchmarks.study_bespoke import denoisers_of, score, solver_of, table
from ddpm.sampling.bespoke import BespokeSolver
from ddpm.sampling.multistep import UniPC
from ddpm.sampling.spacings import sampling_times


def test_a_solver_is_scored_on_both_denoisers_and_against_their_flow() -> None:
    model = gaussian_model(T=100)
    times = sampling_times("log_snr", model.schedule, 4)
    solver = BespokeSolver.like(UniPC(), model.schedule, times)
    cell = {
        "times": list(solver.times),
        "coefficients": [list(row) for row in solver.coefficients],
        "scores": {
            name: score(model, solver, denoiser, n=300)
            for name, denoiser in denoisers_of(model).items()
        },
    }
    assert solver_of(cell) == solver
    # Both denoisers are the exact one here, whose flow has next to no error.
    exact, network = cell["scores"]["exact"], cell["scores"]["network"]
    assert exact == network
    assert exact["cut"]["value"] > 0.01
    assert abs(exact["above_flow"]["value"] - exact["cut"]["value"]) < 0.01
    rows = table(Results(None, {}, {"4/exact": cell})).splitlines()  # type: ignore[arg-type]
    assert [row.split(" | ")[:3] for row in rows[2:]] == [
        ["| 4", "exact", "exact"],
        ["| 4", "exact", "network"],
    ]
