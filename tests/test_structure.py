"""The rooms of the library, and what only one of them may do."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# A room imports only from rooms on lower floors, and not from others on its own.
FLOORS = [
    {"core"},
    {"data", "diffusion", "plots"},
    {"flow", "networks", "training"},
    {"reference", "sampling"},
    {"studies"},
]
ROOMS = sorted(path for path in (ROOT / "ddpm").iterdir() if (path / "__init__.py").exists())
MODULES = sorted((ROOT / "ddpm").glob("*/*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "stages").rglob("*.py"))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """Every name that a file imports: `a.b` for `import a.b` and for `from a import b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {parts[1] for parts in names if parts[0] == "ddpm" and len(parts) > 1}


def test_every_room_has_a_floor() -> None:
    assert {room.name for room in ROOMS} == set().union(*FLOORS)
    assert {path.name for path in (ROOT / "ddpm").iterdir() if path.is_file()} == {
        "__init__.py",
        "py.typed",
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_room_and_from_lower_floors(path: Path) -> None:
    room = path.parent.name
    floor = next(k for k, rooms in enumerate(FLOORS) if room in rooms)
    assert rooms_imported(path) <= {room}.union(*FLOORS[:floor])
    assert not any(name.split(".")[0] == "stages" for name in imported(path))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_init_of_a_room_says_what_belongs_there_and_imports_nothing(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    (docstring,) = tree.body
    assert isinstance(docstring, ast.Expr)
    text = ast.get_docstring(tree)
    assert text is not None
    assert "ay import" in text
    assert len(text.splitlines()) <= 5


def test_the_init_of_the_package_contains_only_the_mapping_of_public_names() -> None:
    # Stages do not depend on this file, so nothing in it may affect their results.
    tree = ast.parse((ROOT / "ddpm" / "__init__.py").read_text(encoding="utf-8"))
    body = [ast.unparse(node) for node in tree.body]
    kinds = [type(node).__name__ for node in tree.body]
    expected = ["Expr", *["ImportFrom"] * 2, "If", *["Assign"] * 3, *["FunctionDef"] * 2]
    assert kinds == expected
    assert body[3].startswith("if TYPE_CHECKING:\n")
    assert all(isinstance(node, ast.ImportFrom) for node in tree.body[3].body)  # type: ignore[attr-defined]
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == [
        "__getattr__",
        "__dir__",
    ]


def users_of(package: str) -> set[str]:
    return {
        name_of(path)
        for path in SOURCES
        if any(name == package or name.startswith(f"{package}.") for name in imported(path))
    }


def test_the_library_reads_no_yaml_and_only_plots_draws() -> None:
    assert users_of("ruamel") == set()
    assert {user.split(".")[0] for user in users_of("yaml")} == {"stages"}
    drawing = users_of("matplotlib") - {"stages.draw_figures"}
    assert {user.rpartition(".")[0] for user in drawing} == {"ddpm.plots"}
    for package in ("dvc", "filelock"):
        assert {user.split(".")[0] for user in users_of(package)} == {"stages"}
    tabling = {user.rpartition(".")[0] for user in users_of("pandas")}
    assert tabling == {"ddpm.plots", "stages.common"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_uses_functions_of_torch_whose_last_bit_depends_on_the_processor(
    path: Path,
) -> None:
    # See ddpm.core.compute.sqrt and log; a power of one half is the same code as the root.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    unsafe = {"sqrt", "sqrt_", "rsqrt", "log", "log_", "atan", "atan2", "logsumexp", "norm"}
    uses = [f for f in calls if isinstance(f, ast.Attribute) and f.attr in unsafe]
    owners = {ast.unparse(f.value) for f in uses}
    # There, the root of a tensor x that is on an accelerator.
    allowed = {"x", "math", "np"} if path.match("core/compute.py") else {"math", "np", "np.linalg"}
    assert owners <= allowed, "use those in ddpm.core.compute, or math"
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    assert not any(isinstance(p.op, ast.Pow) and ast.unparse(p.right) == "0.5" for p in powers)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400
