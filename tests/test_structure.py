"""The layers of the library, and what alone may do what."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# Import only from a lower level. `errors` and `files` stand below `runtime` so that `figures` and
# `params` need no torch.
LEVELS = [
    {"errors"},
    {"params", "files"},
    {"runtime", "provenance", "checkpoint"},
    {"schedules", "datasets", "denoiser", "metrics", "ode"},
    {"process"},
    {"truth", "flow", "reverse", "spacings"},
    {"multistep", "training", "likelihood", "denoising", "model_file"},
    {"samplers", "subject"},
    {"measurement", "attribution", "optimise", "comparison"},
    {"figures"},
    {"figures_truth"},
]
MODULES = sorted(path for path in (ROOT / "ddpm").glob("*.py") if path.stem != "__init__")


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


def test_every_module_has_a_level() -> None:
    assert {path.stem for path in MODULES} == set().union(*LEVELS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_lower_levels(path: Path) -> None:
    level = next(k for k, modules in enumerate(LEVELS) if path.stem in modules)
    below = set().union(*LEVELS[:level])
    used = {name.split(".")[1] for name in imported(path) if name.startswith("ddpm.")}
    assert used <= below
    assert not any(name.split(".")[0] == "stages" for name in imported(path))


def users_of(package: str) -> set[str]:
    files = [*(ROOT / "ddpm").glob("*.py"), *(ROOT / "stages").glob("*.py")]
    return {
        path.stem
        for path in files
        if any(name == package or name.startswith(f"{package}.") for name in imported(path))
    }


def test_only_params_reads_yaml_and_only_figures_draws() -> None:
    # provenance reads dvc.yaml, before dvc.lock.
    assert users_of("ruamel") == {"params", "provenance", "before"}
    assert users_of("yaml") == set()
    assert users_of("matplotlib") == {"figures", "figures_truth"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_left_to_torch_whose_last_bit_depends_on_the_processor(path: Path) -> None:
    # See runtime.sqrt and runtime.log; a power of one half is the same code as the root.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    unsafe = {"sqrt", "sqrt_", "rsqrt", "log", "log_", "atan", "atan2", "logsumexp", "norm"}
    found = [f for f in calls if isinstance(f, ast.Attribute) and f.attr in unsafe]
    assert {ast.unparse(one.value) for one in found} <= {"math", "np", "np.linalg"}
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    assert not any(isinstance(p.op, ast.Pow) and ast.unparse(p.right) == "0.5" for p in powers)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400
