"""A copy of this project in a git repository of its own, driven by the real dvc.

`Project.small` runs the real stages at small sizes. `Project.tiny` is for tests of what dvc does
with dvc.yaml, whatever the stages compute: tests/tiny_stage.py stands in for each of them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conftest import ROOT, inside, shipped, write_params
from tiny_stage import EXAMPLES

from benchmarks.copies import SIZES, changed
from stages.common.lineage import read_pipeline

# What a user's shell has after `source .venv/bin/activate`.
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/"),
}
with inside(ROOT):
    STAGES = tuple(read_pipeline())


class Project:
    """A folder with a git repository, and the commands that a user types in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def small(cls, root: Path) -> "Project":
        """The working tree's files, with small parameters and no results yet."""
        project = cls._copied(root)
        write_params(root, changed(shipped(), **SIZES))
        return project

    @classmethod
    def tiny(cls, root: Path) -> "Project":
        """The working tree's files, but for stages without torch, and with no results yet."""
        project = cls._copied(root)
        for stage in STAGES:
            shutil.copy(ROOT / "tests" / "tiny_stage.py", root / "stages" / f"{stage}.py")
        for report in (*(ROOT / "reports").glob("*.json"), *(ROOT / "reports").glob("*.csv")):
            (root / EXAMPLES).mkdir(exist_ok=True)
            shutil.copy(report, root / EXAMPLES)
        return project

    @classmethod
    def finished(cls, root: Path) -> "Project":
        """A tiny project that has run its pipeline and committed the results."""
        project = cls.tiny(root)
        assert project.stages_run("repro") == list(STAGES)
        project.commit("Run the pipeline")
        return project

    @classmethod
    def _copied(cls, root: Path) -> "Project":
        """The working tree's files but for results, in a new git repository."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for name in listed:
            if not name.startswith("reports/") and name != "dvc.lock" and (ROOT / name).exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        project = cls(root)
        project.git("init", "--quiet")
        return project.identified()

    def clone(self, root: Path) -> "Project":
        """A fresh clone: no cache, no remote."""
        self.git("clone", "--quiet", str(self.root), str(root))
        return Project(root).identified()

    def identified(self) -> "Project":
        self.git("config", "user.name", "A User")
        self.git("config", "user.email", "user@example.org")
        return self

    def run(
        self,
        *command: str,
        fails: bool = False,
        code: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command in the project; its output, standard error included.

        It must succeed, or fail, or end with the exit code if that is given.
        """
        # Into a file: the workers of dvc's queue live on with the output, and a pipe would wait.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            ended = subprocess.run(
                command,
                cwd=self.root,
                env=ENVIRONMENT | dict(environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            log.seek(0)
            output = log.read()
        assert ended.returncode == code if code else (ended.returncode != 0) == fails, output
        assert "Traceback" not in output
        return output

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in the project, and go on."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        return self.run("dvc", *arguments, fails=fails)

    def stages_run(self, *arguments: str) -> list[str]:
        """The stages that a dvc command really runs (not those it skips or has in its cache)."""
        output = self.dvc(*arguments)
        return [stage for stage in STAGES if f"> python -m stages.{stage}\n" in output]

    def json(self, *arguments: str) -> dict[str, Any]:
        answer = json.loads(self.dvc(*arguments, "--json"))
        assert isinstance(answer, dict)
        return answer

    def outputs(self) -> dict[str, bytes]:
        """All that the stages have written."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for folder in ("data", "models", "reports")
            for path in sorted((self.root / folder).glob("*"))
            if path.name not in {"timings.json", "README.md"}
        }
