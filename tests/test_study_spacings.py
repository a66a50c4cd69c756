from pathlib import Path

from exact_cases import gaussian_model

from benchmarks.resumable import Results
from benchmarks.study_spacings import search_and_score, table
from ddpm.sampling.multistep import UniPC


def test_a_search_is_scored_on_other_points() -> None:
    model = gaussian_model(T=100)
    found = [search_and_score(model, UniPC(), 4, 30, 2, 1, scored=scored) for scored in (200, 400)]
    assert found[0]["times"] == found[1]["times"]
    assert len(found[0]["times"]) == 4
    assert found[0]["kl"] != found[1]["kl"]
    assert abs(found[1]["kl"]["value"]) < 0.05


def test_the_table_compares_both_searches() -> None:
    def part(kl: float) -> dict[str, object]:
        return {"times": [], "kl": {"value": kl, "se": 0.0012}, "folded": 0.001, "mass": 1.0}

    cells = {"unipc/10": {"full": part(0.01), "pipeline": part(0.013)}}
    row = table(Results(Path("x"), {}, cells)).splitlines()[-1]
    assert row == "| unipc | 10 | 0.0100 ± 0.0012 | 0.10 % | 0.0130 ± 0.0012 | 1.30 |"
