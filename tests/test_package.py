"""The package that `pip install .` installs, and its public names."""

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import ddpm
from stages.common.paths import MODEL

PUBLIC = ast.parse((ROOT / "ddpm" / "__init__.py").read_text(encoding="utf-8"))
# What the library must do without: it belongs to the pipeline.
BLOCKED = ("dvc", "pandas", "yaml", "ruamel", "matplotlib", "PIL", "filelock", "stages")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without access to the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("ddpm", "stages", "benchmarks", "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_contains_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ddpm").rglob("*.py")}
    assert names == sources | {"ddpm/py.typed"}


def test_the_lines_of_the_documentation_run_with_the_library_alone(
    wheel: Path, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = tmp_path / "installed"
    install = ["install", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(import torch\n\nimport ddpm\n.*?)```", page, re.DOTALL)
    assert lines is not None
    # An entry of None makes an import fail as if the package were not installed.
    blocked = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))"
    origin = f"assert ddpm.__file__.startswith({str(target)!r})"
    script = "\n".join([blocked, lines[1], origin])
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"KL\(truth \|\| model\) = 0\.\d\d nats\n", ended.stdout)


@pytest.mark.parametrize("module", sorted({*ddpm._MODULE_OF.values()}))
def test_the_examples_of_the_public_names_run(
    module: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(finished / MODEL, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    assert not doctest.testmod(importlib.import_module(f"ddpm.{module}")).failed


def test_type_checkers_and_users_see_the_same_public_names() -> None:
    (block,) = (node for node in PUBLIC.body if isinstance(node, ast.If))
    checked = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: f"ddpm.{module}" for name, module in ddpm._MODULE_OF.items()}
    assert checked == lazy
    assert dir(ddpm) == sorted(lazy)
    for name in lazy:
        assert getattr(ddpm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ddpm.nothing  # noqa: B018
