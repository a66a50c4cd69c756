"""The real stages under the real dvc, at small sizes: from nothing to every output, and again."""

import pytest
from dvc_project import STAGES, Project
from test_pipeline import outputs


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """All stages have run, from a clone without results, and all is committed."""
    project = Project.small(tmp_path_factory.mktemp("end_to_end"))
    assert project.outputs() == {}
    assert project.stages_run("repro") == list(STAGES)
    project.commit("Run the pipeline")
    return project


def test_every_output_is_made_and_nothing_is_left_to_run(project: Project) -> None:
    assert sorted(project.outputs()) == sorted(path for stage in STAGES for path in outputs(stage))
    assert project.git("status", "--porcelain") == ""
    assert "Data and pipelines are up to date." in project.dvc("status", "dvc.yaml")
    assert "Data and pipelines are up to date." in project.dvc("repro")


def test_an_invalid_experiment_stops_at_the_check_and_loses_nothing(project: Project) -> None:
    before = project.outputs()
    output = project.dvc("exp", "run", "-S", "schedule=cosinus", fails=True)
    assert "error: schedule is 'cosinus' but should be one of linear, scaled_linear, " in output
    assert "stages.generate" not in output
    lost = before.keys() - project.outputs().keys()
    assert lost == {"data/params.ok"}
    assert {path: before[path] for path in before.keys() - lost} == project.outputs()
