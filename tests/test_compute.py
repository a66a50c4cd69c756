import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from conftest import ROOT, X86_64_LINUX

from ddpm.core import compute
from ddpm.core.compute import ahead, cores, in_parallel, resolve_device, stream
from ddpm.core.errors import UserError


def printed_by(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, with nothing of this one's environment."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout + process.stderr


def test_a_stream_depends_on_seed_and_name_alone() -> None:
    first = torch.randn(4, generator=stream(0, "a"))
    torch.randn(4, generator=stream(0, "b"))
    assert torch.equal(first, torch.randn(4, generator=stream(0, "a")))
    assert not torch.equal(first, torch.randn(4, generator=stream(0, "b")))
    assert not torch.equal(first, torch.randn(4, generator=stream(1, "a")))


def test_auto_takes_the_first_device_that_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    available = {"cuda": False, "mps": False, "cpu": True}
    monkeypatch.setattr(
        compute, "_AVAILABLE", {name: (lambda name=name: available[name]) for name in available}
    )
    assert resolve_device("auto").type == "cpu"
    available["mps"] = True
    assert resolve_device("auto").type == "mps"
    available["cuda"] = True
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_device_that_is_not_available_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(compute, "_AVAILABLE", {"cuda": lambda: False, "cpu": lambda: True})
    with pytest.raises(
        UserError, match=rf"device is '{name}' but .* one of auto, cpu; change device"
    ):
        resolve_device(name)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shared_work_keeps_its_order(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(compute, "cores", lambda: count)
    assert in_parallel(lambda item: item**2, range(20)) == [k**2 for k in range(20)]


@pytest.mark.parametrize(
    ("cores", "torch_threads", "together"),
    [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 4, 1), (2, 8, 1), (1, 1, 1)],
)
def test_shared_work_and_torchs_own_threads_fill_the_cores_once(
    monkeypatch: pytest.MonkeyPatch, cores: int, torch_threads: int, together: int
) -> None:
    monkeypatch.setattr(compute, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    # Every worker waits until all of them are at work.
    barrier = threading.Barrier(together)

    def work(_: int) -> int:
        barrier.wait(timeout=30)
        return threading.get_ident()

    assert len(set(in_parallel(work, range(together)))) == together
    if together == 1:
        assert in_parallel(work, range(3)) == [threading.get_ident()] * 3


def test_work_inside_of_shared_work_stays_on_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cores", lambda: 2)

    def work(_: int) -> tuple[int, set[int]]:
        return threading.get_ident(), set(in_parallel(lambda _: threading.get_ident(), range(4)))

    threads = in_parallel(work, range(4))
    assert all(inner == {outer} for outer, inner in threads)
    # Afterwards, work is shared again.
    assert threading.get_ident() not in in_parallel(lambda _: threading.get_ident(), range(4))


def test_one_worker_serves_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cores", lambda: 4)
    identities = in_parallel(lambda _: threading.get_ident(), range(4), torch.device("cuda"))
    assert set(identities) == {threading.get_ident()}


def test_one_worker_is_used_where_torch_itself_has_as_many_threads_as_cores() -> None:
    code = (
        "import threading, torch\n"
        "from ddpm.core.compute import ahead, cores, in_parallel\n"
        "torch.set_num_threads(cores())\n"
        "identities = in_parallel(lambda _: threading.get_ident(), range(8))\n"
        "print(set(identities) == {threading.get_ident()})"
    )
    assert printed_by(code) == "True\n"
    assert cores() >= 1


def test_ahead_gives_all_items_in_order_and_computes_one_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[int] = []
    done = threading.Event()

    def items() -> Iterator[int]:
        for k in range(5):
            computed.append(k)
            if k == 1:
                done.set()
            yield k

    monkeypatch.setattr(compute, "_workers", lambda: 2)
    iterator = ahead(items(), torch.device("cpu"))
    assert next(iterator) == 0
    assert done.wait(10)  # the second, while the first is used
    assert list(iterator) == [1, 2, 3, 4]
    assert computed == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("workers", "device"), [(1, "cpu"), (2, "meta")])
def test_without_a_free_core_and_on_an_accelerator_nothing_is_computed_ahead(
    monkeypatch: pytest.MonkeyPatch, workers: int, device: str
) -> None:
    thread = threading.get_ident()
    monkeypatch.setattr(compute, "_workers", lambda: workers)
    used = list(ahead((threading.get_ident() for _ in range(3)), torch.device(device)))
    assert used == [thread] * 3


def test_an_error_while_computing_ahead_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    monkeypatch.setattr(compute, "_workers", lambda: 2)
    iterator = ahead(items(), torch.device("cpu"))
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(iterator)


# stages pins the arithmetic, and ddpm changes nothing


@pytest.mark.parametrize(
    ("code", "warned"),
    [
        ("import torch, stages", True),
        ("import numpy, stages", True),
        ("import ddpm, stages", False),
    ],
)
def test_numpy_or_torch_imported_before_stages_is_warned_of(code: str, warned: bool) -> None:
    message = "was imported before stages, so its arithmetic is not pinned"
    assert (message in printed_by(code)) == warned


def test_torch_imported_before_stages_is_no_matter_where_the_user_has_pinned_it() -> None:
    pinned = json.loads(printed_by("import stages, os, json; print(json.dumps(dict(os.environ)))"))
    assert printed_by("import torch, stages", **pinned) == ""


@X86_64_LINUX
@pytest.mark.parametrize(
    ("first", "printed"),
    [
        ("stages", ""),
        ("numpy", "note: NumPy multiplies matrices with Nehalem and not with OpenBLAS's"),
    ],
)
def test_other_matrix_products_than_the_pinned_ones_are_noted(first: str, printed: str) -> None:
    code = (
        f"import warnings; warnings.simplefilter('ignore'); import {first}, stages\n"
        "from stages.common.matrix_products import note_other_kernels; note_other_kernels()"
    )
    # Code for old processors, which all can run; OpenBLAS reads this when NumPy is loaded.
    noted = printed_by(code, OPENBLAS_CORETYPE="Nehalem")
    assert noted.startswith(printed)
    assert bool(noted) == bool(printed)


def test_importing_stages_pins_the_arithmetic_whatever_the_user_has_set() -> None:
    code = (
        "import stages, os, torch; print(torch.get_num_threads(), os.environ['MKL_NUM_THREADS'],"
        " os.environ['CUBLAS_WORKSPACE_CONFIG'], os.environ.get('NPY_ENABLE_CPU_FEATURES'),"
        " os.environ.get('MKL_CBWR'), torch.backends.cpu.get_cpu_capability())"
    )
    printed = printed_by(
        code,
        OMP_NUM_THREADS="2",
        MKL_NUM_THREADS="2",
        CUBLAS_WORKSPACE_CONFIG=":16:8",
        ATEN_CPU_CAPABILITY="default",
        MKL_CBWR="AVX2",
        NPY_ENABLE_CPU_FEATURES="AVX512F",
    ).split()
    assert printed[:4] == ["1", "1", ":4096:8", "None"]
    if platform.machine() in {"x86_64", "AMD64"}:
        assert printed[4:] == ["COMPATIBLE", "AVX2"]


def test_importing_ddpm_changes_nothing_in_the_process() -> None:
    # torch before, to know its number of threads and what importing it does to the environment.
    code = (
        "import os, torch\n"
        "before = dict(os.environ), torch.get_num_threads()\n"
        "import ddpm\n"
        "for name in [None, *dir(ddpm)]:\n"
        "    name and getattr(ddpm, name)\n"
        "    assert (dict(os.environ), torch.get_num_threads()) == before, name\n"
        "    assert not torch.are_deterministic_algorithms_enabled(), name\n"
        "print(before[1])"
    )
    printed = printed_by(code, OMP_NUM_THREADS="2", MKL_CBWR="AVX2", ATEN_CPU_CAPABILITY="default")
    assert printed == "2\n"


def test_importing_ddpm_alone_sets_nothing_that_torch_would_read() -> None:
    # Here ddpm comes before torch: what it set would still take effect.
    code = "import os; before = dict(os.environ); import ddpm; {}print(dict(os.environ) == before)"
    assert printed_by(code.format("")) == "True\n"
    threads = "import torch; print(torch.get_num_threads())"
    assert printed_by(f"import ddpm; ddpm.Linear; {threads}") == printed_by(threads)


def test_importing_ddpm_does_not_import_torch() -> None:
    assert printed_by("import ddpm, sys; print('torch' in sys.modules)") == "False\n"
