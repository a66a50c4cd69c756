"""Execute the notebooks and write the copies that code hosts show: `make notebooks`.

python notebooks/execute.py              # all notebooks, from the project's root
python notebooks/execute.py 1_1_spiral   # this one only
QUICK=1 python notebooks/execute.py      # at the notebooks' small sizes; writes nothing

A notebook is a script in jupytext's percent format, notebooks/NAME.py. Its cells run in a temporary
folder, with the pipeline's pinned arithmetic. A notebook writes its animations to the current
directory, under names that begin with its number, and shows each in a Markdown cell:
![caption](1_1_forward.gif). JupyterLab runs cells in notebooks/, so the same link works there.

The copy and its animations replace those in notebooks/executed/ after the last cell has run. If a
cell fails, the earlier ones stay as they are.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = NOTEBOOKS / "executed"
# A cell that runs longer hangs: a whole notebook is meant to take one minute.
TIMEOUT_SECONDS = 600

sys.path.insert(0, str(ROOT))
import stages  # noqa: E402, F401  # pins the arithmetic of this process, which the kernels inherit

try:
    import ipykernel  # noqa: F401  # nbclient starts it by name
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat import NotebookNode
except ModuleNotFoundError as error:
    sys.exit(
        f"notebooks need the package {error.name}, which is not installed: run `make notebooks`,"
        " or `pip install -r requirements-notebooks.txt`"
    )


def read_notebook(path: Path) -> NotebookNode:
    """Read a script as a notebook that depends on nothing but its cells.

    jupytext draws random cell ids, and the kernel would add its version of Python. Code hosts need
    only the language.
    """
    notebook = jupytext.read(path)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
    return notebook


def execute(notebook: NotebookNode, name: str, folder: Path) -> None:
    """Run all cells in `folder`, and exit with one line if a cell fails or is not quiet."""
    # An empty file takes the place of the user's own settings of matplotlib.
    (folder / "matplotlibrc").touch()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",  # the copies are made on the CPU
        "IPYTHONDIR": str(folder / ".ipython"),  # without the user's profile
    }
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # how printed lines are divided depends on time
    )
    client.create_kernel_manager().transport_encryption = "auto"  # else the kernel warns
    with client.setup_kernel(cwd=str(folder), env=environment):
        for index, cell in enumerate(notebook.cells):
            first_line = cell.source.partition("\n")[0]
            where = f"notebooks/{name}.py, cell {index + 1}, which begins with `{first_line}`"
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                sys.exit(f"{where}: {last_line(f'{error.ename}: {error.evalue}')}{at(error)}")
            except CellTimeoutError:
                sys.exit(f"{where}: it ran for more than {TIMEOUT_SECONDS} s")
            except DeadKernelError:
                sys.exit(f"{where}: the kernel died, perhaps for lack of memory")
            # Warnings name temporary files, and progress bars contain times.
            noise = [out.text for out in cell.get("outputs", []) if out.get("name") == "stderr"]
            if noise:
                sys.exit(
                    f"{where}: it wrote `{last_line(noise[0])}` to stderr; a copy contains no"
                    " warnings and no progress bars, so prevent it in the cell"
                )


def at(error: CellExecutionError) -> str:
    """The cell's own line at which an error arose, which IPython marks with an arrow."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", error.traceback)
    marked = re.search(r"^-+> \d+ (.*)$", plain, re.MULTILINE)
    return f", at `{marked[1].strip()}`" if marked else ""


def last_line(text: str) -> str:
    """The last line of a text that is not blank."""
    return text.strip().splitlines()[-1]


def animations(name: str, folder: Path) -> set[Path]:
    """The animations of a notebook: 1_1_*.gif for 1_1_spiral."""
    return set(folder.glob(f"{number(name)}_*.gif"))


def number(name: str) -> str:
    """The number of a notebook: 1_1 for 1_1_spiral."""
    part, chapter, _ = name.split("_", maxsplit=2)
    return f"{part}_{chapter}"


def refuse_other_animations(name: str, folder: Path) -> None:
    """Exit if the notebook wrote an animation whose name does not say where it belongs."""
    for path in set(folder.glob("*.gif")) - animations(name, folder):
        sys.exit(
            f"notebooks/{name}.py wrote {path.name}, but the name of an animation begins with the"
            f" number of its notebook, as in {number(name)}_noise.gif"
        )


def write_copy(notebook: NotebookNode, name: str, folder: Path) -> None:
    """Replace the executed copy of a notebook and its animations."""
    copy = folder / f"{name}.ipynb"
    jupytext.write(notebook, copy)
    EXECUTED.mkdir(exist_ok=True)
    for old in animations(name, EXECUTED):
        old.unlink()
    for path in [*animations(name, folder), copy]:
        shutil.move(path, EXECUTED / path.name)


def main() -> None:
    """Execute the notebooks that are named on the command line, or all of them."""
    if Path.cwd() != ROOT:
        sys.exit(
            f"the current directory is {Path.cwd()}, but notebooks are executed from the project's"
            f" root: cd {ROOT}"
        )
    names = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]_[0-9]*_*.py"))
    chosen = sys.argv[1:] or names
    for name in chosen:
        if name not in names:
            sys.exit(f"there is no notebook {name}; choose from {', '.join(names)}")
    for name in chosen:
        start = time.perf_counter()
        notebook = read_notebook(NOTEBOOKS / f"{name}.py")
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, name, Path(folder))
            refuse_other_animations(name, Path(folder))
            if not os.environ.get("QUICK"):
                write_copy(notebook, name, Path(folder))
        print(f"executed notebooks/{name}.py in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
