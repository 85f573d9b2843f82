"""Torch's threads go when they are dismissed, come back, and are not made for who is alone."""

import os
import subprocess
import sys
import textwrap

import pytest

from workbench_kernels.native import openmp

pytestmark = pytest.mark.skipif(openmp._library() is None, reason="torch has no libgomp of its own")


def run(program):
    """In a process of its own, where torch has had no threads yet."""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    words = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(words, check=True, env=env, timeout=120)


def test_idle_threads_end_and_come_back():
    run("""
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
    """)


def test_alone_no_threads_are_made_and_afterwards_they_are_again():
    run("""
        import os, torch
        from workbench_kernels.native.openmp import alone, dismiss

        def threads():
            return len(os.listdir("/proc/self/task"))

        torch.set_num_threads(2)
        x = torch.ones(1 << 20)
        dismiss()
        before = threads()
        with alone():
            assert float((x + 1).sum()) > 0 and torch.get_num_threads() == 1
        assert threads() == before and torch.get_num_threads() == 2
        try:
            with alone():
                raise ValueError
        except ValueError:
            assert torch.get_num_threads() == 2
        assert float((x + 1).sum()) > 0
        assert threads() == before + 1
    """)


def test_alone_in_a_new_thread_what_torch_was_told_stays():
    run("""
        import threading, torch
        from workbench_kernels.native.openmp import alone

        torch.set_num_threads(1)
        found = []

        def work():
            with alone():
                torch.ones(1 << 20).add(1)
            found.append(torch.get_num_threads())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [1], found
    """)
