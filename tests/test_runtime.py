import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from ddpm import runtime
from ddpm.errors import UserError
from ddpm.runtime import in_parallel, resolve_device, stream


def test_a_stream_depends_on_seed_and_name_alone() -> None:
    first = torch.randn(4, generator=stream(0, "a"))
    torch.randn(4, generator=stream(0, "b"))
    assert torch.equal(first, torch.randn(4, generator=stream(0, "a")))
    assert not torch.equal(first, torch.randn(4, generator=stream(0, "b")))
    assert not torch.equal(first, torch.randn(4, generator=stream(1, "a")))


def test_auto_takes_the_first_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"cuda": False, "mps": False, "cpu": True}
    monkeypatch.setattr(
        runtime, "_AVAILABLE", {name: (lambda name=name: there[name]) for name in there}
    )
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)
    assert resolve_device("auto").type == "cpu"
    there["mps"] = True
    assert resolve_device("auto").type == "mps"
    there["cuda"] = True
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(runtime, "_AVAILABLE", {"cuda": lambda: False, "cpu": lambda: True})
    with pytest.raises(UserError, match=rf"device is '{name}' but of .* offers auto, cpu;"):
        resolve_device(name)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_shared_work_keeps_its_order(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(runtime, "cores", lambda: cores)
    assert in_parallel(lambda item: item**2, range(20)) == [k**2 for k in range(20)]


def test_torch_imported_too_early_is_warned_of() -> None:
    for code, warned in (("import torch, ddpm", True), ("import ddpm, torch, stages", False)):
        seen = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("RuntimeWarning: torch was imported before ddpm" in seen.stderr) == warned


def test_the_arithmetic_is_pinned_whatever_the_user_has_set() -> None:
    code = (
        "import stages, os, torch; print(torch.get_num_threads(), os.environ['MKL_CBWR'],"
        " torch.backends.cpu.get_cpu_capability())"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            "OMP_NUM_THREADS": "2",
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "AVX2",
            "NPY_ENABLE_CPU_FEATURES": "AVX512F",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.split() == ["1", "COMPATIBLE", "AVX2"]
