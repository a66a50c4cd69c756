"""The notebooks, their executed copies, and the script that executes them."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import ddpm
import stages

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
EXECUTED = ROOT / "notebooks" / "executed"
COPIES = sorted(EXECUTED.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_copy = pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)


def sources(path: Path) -> list[tuple[str, str]]:
    """Kind and source of every cell of a script or of an executed copy."""
    # Imported here, because it takes seconds and the other workers do without.
    import jupytext

    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def code(path: Path) -> str:
    return "\n".join(source for kind, source in sources(path) if kind == "code")


def texts(path: Path) -> list[str]:
    return [source for kind, source in sources(path) if kind == "markdown"]


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_every_notebook_has_an_executed_copy() -> None:
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in COPIES], "make notebooks"


@each_copy
def test_the_copy_has_the_cells_of_its_notebook(path: Path) -> None:
    script = ROOT / "notebooks" / f"{path.stem}.py"
    assert sources(path) == sources(script), f"{path.name} is stale: run `make notebooks`"


@each_copy
def test_the_copy_is_complete_and_quiet(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    count = len(notebook["cells"])
    assert [cell["id"] for cell in notebook["cells"]] == [f"cell-{k + 1}" for k in range(count)]
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    executed = [c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code"]
    assert executed == [k + 1 for k in range(len(executed))]
    assert all(output["output_type"] != "error" for output in outputs(path))
    assert all(output.get("name") != "stderr" for output in outputs(path))


UNREPEATABLE = {
    "a date": r"\b20\d\d-\d\d-\d\d\b",
    "a time": r"\b\d\d:\d\d:\d\d\b",
    "a path": r"/(tmp|home|Users|root|work|opt|usr)/|\b[A-Z]:\\",
    "an address in memory": r"\b0x[0-9a-f]{6,}\b",
}


def unrepeatable(text: str) -> set[str]:
    """What a text contains that another run or another machine would write differently."""
    return {kind for kind, pattern in UNREPEATABLE.items() if re.search(pattern, text)}


@each_copy
def test_the_copy_prints_nothing_that_another_run_would_not(path: Path) -> None:
    for output in outputs(path):
        shown = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        text = "".join(output.get("text", [])) + "".join(map("".join, shown.values()))
        assert not unrepeatable(text), text


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("KL = 0.031 nats, 12:1 in 2020", set()),
        ("2026-11-24", {"a date"}),
        ("started at 12:00:01", {"a time"}),
        ("/" + "tmp/ipykernel_7/1.py:3", {"a path"}),
        ("<matplotlib.lines.Line2D at 0x7f3e5c1d2b50>", {"an address in memory"}),
    ],
)
def test_dates_paths_and_addresses_are_recognised(text: str, kinds: set[str]) -> None:
    assert unrepeatable(text) == kinds


def test_the_copies_and_their_animations_have_three_megabytes_at_most() -> None:
    assert sum(path.stat().st_size for path in EXECUTED.glob("*")) <= 3_000_000


def test_every_animation_is_shown_and_every_link_to_a_picture_leads_somewhere() -> None:
    pattern = r"!\[[^\]]+\]\(([^)]+)\)"
    shown = {link for path in COPIES for text in texts(path) for link in re.findall(pattern, text)}
    assert shown == {path.name for path in EXECUTED.glob("*.gif")}


@each_notebook
def test_the_notebook_begins_with_a_cell_and_not_with_jupytexts_header(path: Path) -> None:
    # JupyterLab would write its versions into a header; without one it saves the cells alone.
    assert path.read_text(encoding="utf-8").startswith("# %%")


@each_notebook
def test_the_notebook_asserts_what_it_says(path: Path) -> None:
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code(path))))


@each_notebook
def test_the_notebook_has_two_or_three_things_to_try(path: Path) -> None:
    first_lines = [source.partition("\n")[0] for _, source in sources(path)]
    assert 2 <= sum("Try it" in line for line in first_lines) <= 3


def names_not_public(source: str) -> set[str]:
    """What code imports beyond `ddpm` itself, torch, NumPy, matplotlib and the standard library."""
    allowed = {"ddpm", "torch", "numpy", "matplotlib", *sys.stdlib_module_names}
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ddpm":
            names |= {f"ddpm.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ddpm":
            names.add(f"ddpm.{node.attr}")
    public = {f"ddpm.{name}" for name in dir(ddpm)}
    foreign = {name for name in names if name.split(".")[0] not in allowed}
    return foreign | {name for name in names if name.startswith("ddpm.") and name not in public}


@each_notebook
def test_the_notebook_uses_only_public_names(path: Path) -> None:
    assert names_not_public(code(path)) == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import math\nimport torch.nn.functional as F\nimport ddpm\nddpm.DDPM()", set()),
        ("from ddpm import DDPM", set()),
        ("from ddpm import core", {"ddpm.core"}),
        ("from ddpm.core.compute import stream", {"ddpm.core.compute"}),
        ("import ddpm.core.compute", {"ddpm.core.compute"}),
        ("import ddpm\nddpm.core.compute.stream(0, 'a')", {"ddpm.core"}),
        ("from scipy import stats", {"scipy"}),
    ],
)
def test_names_that_are_not_public_are_recognised(source: str, names: set[str]) -> None:
    assert names_not_public(source) == names


def outside_dollars(text: str) -> str | None:
    """The first mathematics in Markdown that code hosts and Jupyter would not both render."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    # A dollar sign beside a space is an ordinary one.
    text = re.sub(r"\$(?! )[^$\n]+(?<! )\$", "", text)
    rest = re.search(r"\$.*|\\[a-zA-Z(\[].*", text)
    return rest[0] if rest else None


@each_notebook
def test_the_notebooks_equations_stand_between_dollars(path: Path) -> None:
    for text in texts(path):
        assert outside_dollars(text) is None


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Noise $\\sigma_t$, and\n\n$$\nx_t = \\sigma\n$$\n\nwith `\\n` in code.", None),
        ("\\(x_t\\)", "\\(x_t\\)"),
        ("\\begin{align}", "\\begin{align}"),
        ("$ x_t $", "$ x_t $"),
        ("half of $x_t", "$x_t"),
    ],
)
def test_mathematics_outside_dollars_is_recognised(text: str, rest: str | None) -> None:
    assert outside_dollars(text) == rest


SAMPLE = """\
# %% [markdown]
# Some $x$.

# %%
import os
from pathlib import Path

print("first")
for name in ("OMP_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES"):
    print(name, os.environ.get(name))
size = Path("1_1_a.gif").write_bytes(b"GIF89a")

# %%
1 + 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that contains the script and one small notebook."""
    for name in ("notebooks/execute.py", "stages/__init__.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks" / "1_1_sample.py").write_text(SAMPLE, encoding="utf-8")
    return tmp_path


def execute(
    folder: Path, *arguments: str, script: str = "notebooks/execute.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    # Without what this process has pinned, which the script has to pin by itself.
    removed = {"QUICK", *stages._PINNED, *stages._PINNED_X86}
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k not in removed} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "notebooks/executed").glob("*")}


def append(folder: Path, cell: str) -> None:
    with (folder / "notebooks" / "1_1_sample.py").open("a", encoding="utf-8") as script:
        script.write(f"\n# %%\n{cell}\n")


def test_a_second_run_writes_the_same_bytes_and_a_failing_cell_leaves_them(project: Path) -> None:
    pytest.importorskip("nbclient", reason="`make notebooks` installs it")
    first = execute(project)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    before = contents(project)
    assert set(before) == {"1_1_sample.ipynb", "1_1_a.gif"}
    script, copy = (
        project / "notebooks" / f"{n}" for n in ("1_1_sample.py", "executed/1_1_sample.ipynb")
    )
    assert sources(script) == sources(copy)
    assert copy.read_text(encoding="utf-8").endswith("\n}\n")
    printed, value = outputs(copy)
    assert "".join(printed["text"]).startswith(
        "first\nOMP_NUM_THREADS 1\nNPY_DISABLE_CPU_FEATURES "
    )
    assert value["data"] == {"text/plain": ["2"]}

    (copy.parent / "1_1_older.gif").touch()
    (copy.parent / "1_10_other.gif").touch()
    assert execute(project).returncode == 0
    before |= {"1_10_other.gif": b""}
    assert contents(project) == before

    append(project, "x = 1\nassert x == 2, 'x is 1'")
    assert sources(script) != sources(copy)
    failed = execute(project)
    assert failed.returncode == 1
    assert failed.stderr == (
        "notebooks/1_1_sample.py, cell 4, which begins with `x = 1`: AssertionError: x is 1,"
        " at `assert x == 2, 'x is 1'`\n"
    )
    assert contents(project) == before


def test_quick_writes_nothing_and_refuses_what_is_not_quiet(project: Path) -> None:
    pytest.importorskip("nbclient", reason="`make notebooks` installs it")
    append(project, "assert os.environ['QUICK']")
    quick = execute(project, "1_1_sample", QUICK="1")
    assert quick.returncode == 0, quick.stderr
    assert sorted(path.name for path in project.iterdir()) == ["notebooks", "stages"]
    assert not (project / "notebooks" / "executed").exists()

    append(project, "import warnings\nwarnings.warn('careful')")
    loud = execute(project, QUICK="1")
    assert loud.returncode == 1
    assert "cell 5, which begins with `import warnings`: it wrote `" in loud.stderr
    assert "careful" in loud.stderr
    assert len(loud.stderr.splitlines()) == 1

    script = project / "notebooks" / "1_2_sample.py"
    script.with_name("1_1_sample.py").unlink()
    script.write_text(SAMPLE, encoding="utf-8")
    misnamed = execute(project, QUICK="1")
    assert misnamed.returncode == 1
    assert misnamed.stderr == (
        "notebooks/1_2_sample.py wrote 1_1_a.gif, but the name of an animation begins with the"
        " number of its notebook, as in 1_2_noise.gif\n"
    )


def test_another_folder_and_an_unknown_name_are_refused_in_one_line(project: Path) -> None:
    pytest.importorskip("nbclient", reason="`make notebooks` installs it")
    elsewhere = execute(project / "notebooks", script="execute.py")
    assert elsewhere.returncode == 1
    assert re.fullmatch(r"the current directory is .*root: cd \S+\n", elsewhere.stderr)
    unknown = execute(project, "1_9")
    assert unknown.returncode == 1
    assert unknown.stderr == "there is no notebook 1_9; choose from 1_1_sample\n"


def test_a_missing_extra_is_reported_in_one_line(project: Path) -> None:
    # An entry of None makes an import fail as if the package were not installed.
    lines = "import runpy, sys; sys.modules['ipykernel'] = None; runpy.run_path(sys.argv[1])"
    missing = execute(project, lines, "notebooks/execute.py", script="-c")
    assert missing.returncode == 1
    assert missing.stderr == (
        "notebooks need the package ipykernel, which is not installed: run `make notebooks`, or"
        " `pip install -r requirements-notebooks.txt`\n"
    )
