"""README and docs: every command and every Python block runs, and every name exists.

In a fenced block `sh` every line is a command. In `console`, lines that begin with "$ " are
commands, and the lines below are parts of their output. A command with the comment "# not tested:
REASON" is left out, and so is a block below a line <!-- not tested: REASON -->. A block `text`
after a block `python` is its output.
"""

import contextlib
import importlib
import io
import itertools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, inside, run, shipped, write_params
from dvc_project import STAGES, Project
from test_project import tracked

from benchmarks import (
    ablation,
    libraries,
    libraries_table,
    metrics,
    study_bespoke,
    study_datasets,
    study_generalisation,
    study_guidance,
    study_samplers,
    study_schedules,
    study_spacings,
)
from benchmarks.copies import changed
from benchmarks.resumable import Results
from benchmarks.seeds import leaves
from ddpm.data.datasets import DATASETS
from ddpm.diffusion.guidance import GUIDANCE
from ddpm.diffusion.schedules import SCHEDULES
from ddpm.sampling.registry import SAMPLERS
from ddpm.sampling.spacings import OPTIMISED, SPACINGS
from stages.common.lineage import read_pipeline
from stages.common.yaml_loader import load_yaml

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block that follows such a comment is not tested.
NOT_TESTED_BLOCK = re.compile(
    r"^<!-- not tested: \S.*-->\n```\w*\n.*?^```$", re.MULTILINE | re.DOTALL
)
NOT_TESTED = re.compile(r"# not tested: \S")
# Files that a run writes, and those of a user or of a tool, which are not in git.
WRITTEN = {"reports/timings.json", "reports/samplers_full.csv", "requirements.txt"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", text_of(page))


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    content: str

    def __str__(self) -> str:
        return f"{self.page}: {self.content.splitlines()[-1][:40]}"


def blocks_of(page: str) -> list[Block]:
    tested = NOT_TESTED_BLOCK.sub("", text_of(page))
    return [Block(page, *fenced) for fenced in FENCED.findall(tested)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
WITH_COMMANDS = [
    page for page in PAGES if {"sh", "console"} & {block.language for block in blocks_of(page)}
]


class Command(NamedTuple):
    """A command, and the lines of its output that the page shows."""

    line: str
    output: list[str]


def commands_of(page: str) -> Iterator[Command]:
    for block in blocks_of(page):
        if block.language == "sh":
            yield from (Command(line, []) for line in block.content.splitlines() if line)
        elif block.language == "console":
            for part in re.split(r"^\$ ", block.content, flags=re.MULTILINE)[1:]:
                line, *output = part.splitlines()
                yield Command(line, output)


# What a stage runs in the tests of commands: it writes its outputs, and takes no time.
STAND_IN = """\
for out in "$@"; do
  mkdir -p "$(dirname "$out")"
  cp "examples/$(basename "$out")" "$out" 2>/dev/null || echo made > "$out"
done
"""


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline has run and is committed; `make` finds the environment of the tests."""
    project = Project.tiny(tmp_path_factory.mktemp("docs"))
    (project.root / "stand_in.sh").write_text(STAND_IN, encoding="utf-8")
    pipeline = (project.root / "dvc.yaml").read_text(encoding="utf-8")
    with inside(project.root):
        stages = read_pipeline()
    # Stage `check` refuses invalid parameters, as it does in the pipeline.
    for name in stages.keys() - {"check"}:
        command = f"sh stand_in.sh {' '.join(map(str, stages[name].outs))}"
        pipeline = pipeline.replace(f"cmd: python -m stages.{name}\n", f"cmd: {command}\n")
    # To hash code that no stage runs here would take a quarter of the time.
    pipeline = re.sub(r"^ +- (ddpm|stages)/.*\n", "", pipeline, flags=re.MULTILINE)
    (project.root / "dvc.yaml").write_text(pipeline, encoding="utf-8")
    (project.root / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (project.root / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for name in ("runtime", "dev"):
        (project.root / ".venv" / name).touch()
    project.dvc("repro")
    project.commit("Run the pipeline")
    return project


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_runs(page: str, finished_project: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(finished_project.root, project.root, symlinks=True)
    for line, shown in commands_of(page):
        if NOT_TESTED.search(line):
            continue
        output = project.run("bash", "-c", line, fails=any(s.startswith("error") for s in shown))
        position = 0
        for part in (words for lines in shown for words in lines.split("...") if words.strip()):
            position = output.find(part, position)
            assert position >= 0, f"{line} does not print {part!r} but:\n{output}"


EXPERIMENTS = {
    command.line
    for page in WITH_COMMANDS
    for command in commands_of(page)
    if " -S " in command.line and not any(line.startswith("error: ") for line in command.output)
}


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_the_parameters_of_an_experiment_are_valid(experiment: str, tmp_path: Path) -> None:
    words = shlex.split(experiment, comments=True)
    settings = [word.split("=") for before, word in itertools.pairwise(words) if before == "-S"]
    names = [name for name, _ in settings]
    for values in itertools.product(*(values.split(",") for _, values in settings)):
        changes = {name: load_yaml(value) for name, value in zip(names, values, strict=True)}
        write_params(tmp_path, changed(shipped(), **changes))
        run("check", tmp_path)


# tests/test_package.py runs those of the library, as a user who has installed nothing else.
@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "python" and block.page != "docs/library.md"],
    ids=str,
)
def test_every_python_block_runs_and_prints_what_the_page_shows(
    block: Block, request: pytest.FixtureRequest
) -> None:
    needs_model = "models/" in block.content
    folder = request.getfixturevalue("finished") if needs_model else ROOT
    printed = io.StringIO()
    with inside(folder), contextlib.redirect_stdout(printed):
        exec(compile(block.content, block.page, "exec"), {"__name__": "__main__"})
    following = dict(itertools.pairwise(BLOCKS)).get(block)
    if following and (following.page, following.language) == (block.page, "text"):
        assert printed.getvalue() == following.content


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = {block.language for block in BLOCKS}
    assert kinds <= {"sh", "console", "python", "text", "yaml", "mermaid", "bibtex"}
    for block in BLOCKS:
        if block.language == "yaml":
            assert load_yaml(block.content)


@pytest.mark.parametrize("page", [*PAGES, "data/README.md"])
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for link in re.findall(r"\]\(<?(.*?)>?\)", prose_of(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert target.relative_to(ROOT).as_posix() in tracked(), link
            assert not anchor or anchor in anchors_of(target), link


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose_of(path.relative_to(ROOT).as_posix()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", [*PAGES, "data/README.md"])
def test_every_file_and_module_that_a_page_names_exists(page: str) -> None:
    with inside(ROOT):
        outputs = {out.as_posix() for stage in read_pipeline().values() for out in stage.outs}
    known = {*tracked(), *outputs, *WRITTEN}
    folders = {f"{parent}/" for path in known for parent in Path(path).parents}
    for name in re.findall(r"`((?:\.?\w[\w.-]*/)+(?:\.?\w[\w.-]*)?)`", text_of(page)):
        first = name.partition("/")[0]
        if f"{first}/" in folders:
            assert name in known | folders, name
    for name in re.findall(r"`((?:ddpm|stages|benchmarks)(?:\.\w+)+)`", text_of(page)):
        module, _, attribute = name.rpartition(".")
        target = importlib.import_module(module)
        assert hasattr(target, attribute) or importlib.import_module(name), name


def test_every_metric_is_explained() -> None:
    page = text_of("docs/metrics.md")
    for report in ("metrics", "attribution", "forward"):
        values = json.loads((ROOT / "reports" / f"{report}.json").read_text(encoding="utf-8"))
        for name, _ in leaves(values, ""):
            metric = re.sub(r"\.(value|se|floor|truth|truth_sd)$", "", name)
            section, _, last = metric.rpartition(".")
            explained = f"`{metric}`" in page or {f"`{section}`", f"`{last}`"} <= words_of(page)
            assert explained, name


def words_of(page: str) -> set[str]:
    return set(re.findall(r"`[^`\n]+`", page))


@pytest.mark.parametrize("report", ["samplers", "denoising", "memory", "training"])
def test_every_column_is_explained(report: str) -> None:
    page = text_of("docs/metrics.md")
    header, _ = (ROOT / "reports" / f"{report}.csv").read_text(encoding="utf-8").split("\n", 1)
    for column in header.split(","):
        column = re.sub(r"_(se|floor|difference|difference_se)$", "", column)
        assert f"`{column}`" in page, column


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/schedules.md", SCHEDULES),
        ("docs/samplers.md", [*SAMPLERS, *SPACINGS, *OPTIMISED]),
        ("docs/pipeline.md", STAGES),
        ("docs/data.md", DATASETS),
        ("docs/guidance.md", GUIDANCE),
    ],
)
def test_every_choice_has_a_row_in_the_table_of_its_page(page: str, names: list[str]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", text_of(page), re.MULTILINE)
    assert set(names) <= set(rows)


def test_every_paper_that_the_code_cites_is_listed() -> None:
    listed = text_of("docs/references.md")
    for path in (ROOT / "ddpm").rglob("*.py"):
        for url in re.findall(r"https?://[^\s,\"]+", path.read_text(encoding="utf-8")):
            assert url.rstrip(".") in listed, f"{path}: {url}"


def test_the_tables_of_the_studies_are_those_that_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    results = Results.read(study_schedules.FULL.file)
    assert f"\n{study_schedules.table(results)}\n" in text_of("docs/schedules.md")
    results = Results.read(study_generalisation.FULL.file)
    for table in (study_generalisation.table, study_generalisation.shares):
        assert f"\n{table(results)}\n" in text_of("docs/generalisation.md")
    samplers_results = Results.read(study_samplers.FULL.file)
    for table in (study_samplers.table, study_samplers.spacings_table):
        assert f"\n{table(study_samplers.FULL, samplers_results)}\n" in text_of("docs/samplers.md")
    results = Results.read(study_datasets.FULL.file)
    assert f"\n{study_datasets.table(study_datasets.FULL, results)}\n" in text_of("docs/data.md")
    results = Results.read(study_guidance.FULL.file)
    for guidance_table in study_guidance.TABLES:
        printed = guidance_table(study_guidance.FULL, results)
        assert f"\n{printed}\n" in text_of("docs/guidance.md")
    for study in (study_spacings, study_bespoke):
        results = Results.read(study.FULL.file)
        assert f"\n{study.table(results)}\n" in text_of("docs/samplers.md")


def test_the_gap_of_the_example_is_the_one_that_was_measured() -> None:
    measured = json.loads(text_of("pipelines/points/reports/metrics.json"))
    value, se = (measured["likelihood"]["gap"][name] for name in ("value", "se"))
    assert f"For the example it is {value:.3f} ± {se:.3f} nats." in text_of("docs/data.md")


def test_the_table_of_the_ablation_is_the_one_that_is_printed() -> None:
    table = ablation.table(ablation.FULL, Results.read(ROOT / ablation.FULL.file))
    assert f"\n{table}\n" in text_of("docs/training.md")


def test_the_readmes_table_of_results_is_the_one_that_is_printed() -> None:
    assert metrics.table(ROOT) in text_of("README.md")


def test_the_table_of_the_benchmark_is_the_one_that_is_printed() -> None:
    assert libraries_table.table(ROOT / libraries.FILE) in text_of("docs/benchmark.md")


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150
