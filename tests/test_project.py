"""What surrounds the code: pins, targets, CI."""

import json
import re
import subprocess
import tomllib

import pytest
from conftest import ROOT, shipped
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ddpm.core.compute import _AVAILABLE
from ddpm.core.settings import Settings
from ddpm.data.datasets import DATASETS
from ddpm.diffusion.predictions import PREDICTIONS
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.networks.registry import NETWORKS
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import OPTIMISED, SPACINGS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert len(pinned) + 2 >= len(lines), f"{name} holds more than pins"
    return {canonicalize_name(package): version for package, version in pinned.items()}


@pytest.mark.parametrize("group", ["library", "pipeline", "dev", "notebooks"])
def test_every_named_package_is_pinned_within_its_range(group: str) -> None:
    ranges = {"library": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]
    pinned = pins("requirements.txt")
    if group in {"dev", "notebooks"}:
        pinned |= pins(f"requirements-{group}.txt")
    for text in ranges[group]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text
    assert pinned["torch"] == "2.13.0"


def test_the_environments_for_tests_and_for_notebooks_can_be_one() -> None:
    tests, notebooks = pins("requirements-dev.txt"), pins("requirements-notebooks.txt")
    both = tests.keys() & notebooks.keys()
    assert "jupytext" in both
    assert {name: tests[name] for name in both} == {name: notebooks[name] for name in both}
    # The base of both; a second pin of the same package would contradict it.
    assert not notebooks.keys() & pins("requirements.txt").keys()


def test_what_the_benchmark_installs_leaves_all_other_packages_alone() -> None:
    bench = pins("requirements-bench.txt")
    assert "smalldiffusion" in bench
    assert not bench.keys() & (pins("requirements.txt") | pins("requirements-dev.txt")).keys()


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def test_nothing_names_a_package_host_or_a_folder_of_one_machine() -> None:
    words = "|".join(
        ("index" + "-url", "find" + "-links", "/" + "opt/", "/" + "work/", "/" + "root/")
    )
    for name in tracked():
        # What cells print is read by test_notebooks.py.
        if not name.endswith((".png", ".gif", ".ipynb", ".lock")):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not re.search(words, text), name
    assert "://" not in (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_pictures_in_git_are_small() -> None:
    for name in tracked():
        if name.endswith((".png", ".gif")):
            limit = 300_000 if name.endswith(".png") else 400_000
            assert (ROOT / name).stat().st_size <= limit, name
    assert not any(name.endswith((".npy", ".npz", ".safetensors")) for name in tracked())


def test_the_committed_results_keep_what_the_project_promises() -> None:
    metrics = json.loads((ROOT / "reports" / "metrics.json").read_text(encoding="utf-8"))
    likelihood, energy = metrics["likelihood"], metrics["samples"]["energy_distance"]
    assert likelihood["kl"]["value"] <= 0.05
    assert likelihood["kl"]["se"] <= 0.002
    assert abs(likelihood["exact_kl"]["value"]) <= 0.001
    assert abs(likelihood["solver_error"]["exact"]["value"]) < 0.0002
    assert abs(energy["value"]) <= 3 * energy["se"]


def test_the_names_in_the_comments_of_params_exist() -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    choices = {"prediction": PREDICTIONS, "device": ["auto", *_AVAILABLE]}
    for name, registry in choices.items():
        comment = re.search(rf"^ *{name}: \w+ +# ([\w| ]+)", text, re.MULTILINE)
        assert comment is not None
        assert set(comment[1].strip().split(" | ")) <= set(registry), name
    above = re.search(r"# ([\w| ]+)\n  spacing: ", text)
    assert above is not None
    assert set(above[1].split(" | ")) <= {*SPACINGS, *OPTIMISED}


@pytest.mark.parametrize(
    ("kind", "registry"),
    [
        ("datasets", DATASETS),
        ("schedules", SCHEDULES),
        ("networks", NETWORKS),
        ("samplers", SAMPLERS),
    ],
)
def test_every_name_in_a_registry_has_a_valid_section_in_params(
    kind: str, registry: dict[str, type[Settings]]
) -> None:
    assert set(shipped()[kind]) == set(registry)
    for name, settings in registry.items():
        settings.model_validate(shipped()[kind][name])


def test_make_lists_every_target_with_one_line() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert [line.split()[1] for line in listed.splitlines()] == phony[1].split()


def test_the_workflow_runs_the_same_script() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "- run: .ci/run\n" in workflow
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert last == "make test"
