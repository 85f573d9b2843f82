"""Cells have their memory before they are written: which, in what order; nothing changes."""

import platform
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.cells import pages
from workbench.cells.tensors import CellTensors, LayerShape
from workbench.cells.warm import PIECE, SMALLEST, Warmer

CELLS = 50_000


class Noted:
    """Stands in for cells: notes what is populated."""

    def __init__(self, nbytes=SMALLEST):
        self.nbytes, self.device, self.spans = nbytes, "cpu", []

    def populate(self, start, end):
        self.spans.append((start, end))


def finish(warmer):
    assert warmer.wait(timeout=30)
    assert warmer._thread is None


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)), min_size=1, max_size=6))
def test_all_that_is_wanted_is_populated_once(wants):
    cells = Noted()
    warmer = Warmer(cells, CELLS)
    for low, high in wants:
        warmer.want(low, high)
        finish(warmer)
    covered = sorted(cell for start, end in cells.spans for cell in range(start, end))
    low = min(CELLS, max(low for low, _ in wants))
    high = max(0, CELLS - max(high for _, high in wants))
    if low <= high:
        assert covered == [*range(low), *range(high, CELLS)]
    assert {*range(low), *range(high, CELLS)} == set(covered)
    assert all(0 < end - start <= PIECE for start, end in cells.spans)


def test_the_cells_of_rows_come_before_those_of_questions():
    cells = Noted()
    warmer = Warmer(cells, CELLS)
    warmer.want(2 * PIECE, 10)
    finish(warmer)
    assert cells.spans == [(0, PIECE), (PIECE, 2 * PIECE), (CELLS - 10, CELLS)]


def test_whoever_waits_waits_until_all_of_it_is_there():
    class Slow(Noted):
        def populate(self, start, end):
            go.wait(timeout=30)
            super().populate(start, end)

    go, cells = threading.Event(), Slow()
    warmer = Warmer(cells, CELLS)
    assert warmer.wait()  # nothing is wanted
    warmer.want(3 * PIECE, 1)
    assert not warmer.wait(timeout=0.01)
    go.set()
    assert warmer.wait(timeout=30)
    assert (warmer.low, warmer.high) == (3 * PIECE, CELLS - 1)


def test_few_bytes_are_not_worth_a_thread_and_a_closed_engine_needs_none():
    small, closed = Warmer(Noted(SMALLEST - 1), CELLS), Warmer(Noted(), CELLS)
    closed.close()
    for warmer in (small, closed):
        warmer.want(100, 100)
        assert warmer._thread is None and not warmer._cells.spans


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    platform.system() != "Linux"
    or tuple(int(part) for part in platform.release().split(".")[:2]) < (5, 14),
    reason="needs MADV_POPULATE_WRITE, of Linux 5.14",
)
def test_populated_cells_are_in_memory_and_keep_what_they_hold():
    shape = LayerShape(heads=2, kv_heads=2, k_dim=64, v_dim=64, window=None)
    cells = CellTensors({0: shape, 1: shape}, 40_000, torch.bfloat16, "cpu")
    cells.k[1][1, 7] = 3.0
    before = resident()
    cells.populate(0, 40_000)
    assert resident() - before > 0.8 * cells.nbytes
    assert (cells.k[1][1, 7] == 3.0).all()
    assert not cells.k[1][1, 8].any()


def test_what_is_not_on_a_cpu_or_empty_is_left_alone():
    pages.populate(torch.empty(0))
    pages.populate(torch.empty(10, device="meta"))
