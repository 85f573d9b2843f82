"""The pool is as large as memory allows, and as kernels can index."""

import os

import pytest
import torch

from workbench.engine.memory import UNKNOWN, available_memory, pool_size
from workbench.errors import CellsExhausted


def test_memory_that_files_take_counts_as_available(tmp_path):
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 32 kB\nMemFree: 1 kB\nMemAvailable: 24 kB\n")
    assert available_memory(told) == 24 * 1024
    assert available_memory(tmp_path / "none") > 1e8
    assert available_memory() > 1e8


def test_a_system_that_does_not_say_has_a_little(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert available_memory(tmp_path / "none") == UNKNOWN


def test_a_pool_on_a_gpu_is_no_larger_than_kernels_can_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (148 * 10**9, 150 * 10**9))
    most = (2**31 - 1) // 64
    assert pool_size(None, 3_072, "cuda", 64) == most < 0.9 * 148e9 / 3_072
    assert pool_size(most, 3_072, "cuda", 64) == most
    with pytest.raises(CellsExhausted, match="which the kernels can index"):
        pool_size(most + 1, 3_072, "cuda", 64)
    usual = int(0.9 * 148e9) // 100_000
    assert pool_size(None, 100_000, "cuda", 128) == usual
    assert pool_size(usual, 100_000, "cuda", 128) == usual
    with pytest.raises(CellsExhausted, match=f"at most {usual:,}, which the available memory"):
        pool_size(usual + 1, 100_000, "cuda", 128)  # steps would have no room
