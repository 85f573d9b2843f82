"""Allocation, reference counts and holes, driven by hypothesis."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workbench.cells.pool import CellPool
from workbench.errors import CellsExhausted


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocating, holding and releasing keeps the books."""

    def __init__(self):
        super().__init__()
        self.pool = CellPool(64)
        self.held = []

    @rule(num=st.integers(1, 40), high=st.booleans())
    def allocate(self, num, high):
        free = self.pool.num_free
        if num > free:
            with pytest.raises(CellsExhausted, match=f"{num} cells wanted, {free} of 64 are free"):
                self.pool.allocate(num, high=high)
            assert self.pool.num_free == free
        else:
            extents = self.pool.allocate(num, high=high)
            assert sum(e.length for e in extents) == num
            self.held += extents

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def hold(self, data):
        extent = data.draw(st.sampled_from(self.held))
        self.pool.hold(extent)
        self.held.append(extent)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def books(self):
        self.pool.check(self.held)
        held = {c for e in self.held for c in range(e.start, e.end)}
        assert sorted(set(range(64)) - held) == self.pool.free_cells()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_one_hole_that_fits_gives_one_extent():
    pool = CellPool(100)
    first = pool.allocate(30)
    (second,) = pool.allocate(70)
    assert (second.start, second.length) == (30, 70)
    pool.release(first[0])
    assert [(e.start, e.length) for e in pool.allocate(30)] == [(0, 30)]


def test_fragments_are_chained_largest_first():
    pool = CellPool(30)
    parts = [pool.allocate(10)[0] for _ in range(3)]
    pool.release(parts[0])
    pool.release(parts[2])
    chain = pool.allocate(15)
    assert [(e.start, e.length) for e in chain] == [(0, 10), (20, 5)]


def test_branches_take_the_high_end():
    pool = CellPool(100)
    assert pool.allocate(10, high=True)[0].start == 90
    assert pool.allocate(10)[0].start == 0


def test_a_broken_count_is_found():
    pool = CellPool(10)
    (extent,) = pool.allocate(4)
    with pytest.raises(AssertionError, match="refs != holders"):
        pool.check([])
    with pytest.raises(AssertionError, match="refs != holders"):
        pool.check([extent, extent])
