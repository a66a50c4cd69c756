"""The quick part of `python -m benchmarks.portable_bits`."""

import pytest
from conftest import X86_64_LINUX

from benchmarks.portable_bits import Condition, compare
from stages.common.lineage import read_pipeline


@pytest.mark.proof
@X86_64_LINUX
def test_bits_depend_on_neither_the_threads_nor_the_users_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AVX2", "NPY_DISABLE_CPU_FEATURES": ""}
    assert compare([Condition(1), Condition(3, other)])
    outputs = sum(len(stage.outs) for stage in read_pipeline().values())
    assert f"2 of 2 conditions gave the same {outputs} files" in capsys.readouterr().out
