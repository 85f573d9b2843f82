"""Torch's idle threads go when they are dismissed, and come back for the next operation."""

import os
import subprocess
import sys
import textwrap

import pytest

from workbench_kernels.native import openmp

pytestmark = pytest.mark.skipif(openmp._pause() is None, reason="torch has no libgomp of its own")


def test_idle_threads_end_and_come_back():
    program = """
        import os, torch
        from workbench_kernels.native.openmp import dismiss

        def threads():
            return len(os.listdir("/proc/self/task"))

        torch.set_num_threads(2)
        dismiss()  # nothing to dismiss yet
        before = threads()
        x = torch.ones(1 << 20)
        for _ in range(3):
            assert float(x.cos().sum()) > 0
            assert threads() == before + 1, (threads(), before)
            dismiss()
            assert threads() == before, (threads(), before)
        dismiss()
    """
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    words = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(words, check=True, env=env, timeout=120)
