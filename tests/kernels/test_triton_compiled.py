"""The Triton kernels compile for GPUs that are not here, and fit their shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What one program may have, in bytes, by the CUDA programming guide.
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_120": 99 * 1024}


@pytest.fixture(scope="module")
def compiled():
    """Facts about each kernel, from a process without TRITON_INTERPRET."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("triton_compile.py")
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_kernel_becomes_code_that_fits(compiled):
    assert {kernel["family"] for kernel in compiled} == set(SHARED)
    for kernel in compiled:
        assert kernel["entry"] and kernel["target"].startswith(kernel["family"]), kernel
        assert kernel["shared"] <= SHARED[kernel["family"]], kernel


@pytest.mark.parametrize("family", SHARED)
def test_all_blocks_of_a_device_multiply_alike(compiled, family):
    """One instruction, one depth: how many rows share a block then changes no sum."""
    blocks = [k for k in compiled if k["family"] == family and "attend bf16" in k["name"]]
    instruction = "wgmma.mma_async" if family == "sm_90" else "mma.sync"
    assert len(blocks) == 3
    for kernel in blocks:
        assert kernel["matrix"] == [instruction] and kernel["depth"] == ["k16"], kernel
        assert kernel["versions"] == ["3" if family == "sm_90" else "2"], kernel


def test_cells_are_loaded_ahead(compiled):
    attends = [k for k in compiled if k["name"].startswith("attend") and "f32" not in k["name"]]
    assert len(attends) == 10
    for kernel in attends:
        assert kernel["in_flight"] > 0, kernel
