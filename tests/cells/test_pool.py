"""Allocation, holders of every cell and holes, driven by hypothesis."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workbench.cells.pool import CellPool, Span
from workbench.errors import CellsExhausted

CELLS = 64


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocating, holding and releasing, also of parts of spans, keeps the books."""

    def __init__(self):
        super().__init__()
        self.pool = CellPool(CELLS)
        self.held = []

    @rule(num=st.integers(1, 40), high=st.booleans())
    def allocate(self, num, high):
        free = self.pool.num_free
        if num > free:
            with pytest.raises(CellsExhausted, match=f"{num} cells wanted, {free} of 64 are free"):
                self.pool.allocate(num, high=high)
            assert self.pool.num_free == free
        else:
            spans = self.pool.allocate(num, high=high)
            assert sum(span.length for span in spans) == num
            self.held += spans

    def part(self, data):
        """Takes a held span, and cuts it in up to three."""
        span = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        first = data.draw(st.integers(0, span.length - 1))
        length = data.draw(st.integers(1, span.length - first))
        rest = [Span(span.start, first), Span(span.start + first + length,
                                              span.length - first - length)]  # fmt: skip
        self.held += [other for other in rest if other.length]
        return Span(span.start + first, length)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def hold(self, data):
        span = self.part(data)
        self.pool.hold(span)
        self.held += [span, span]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        self.pool.release(self.part(data))

    @invariant()
    def books(self):
        self.pool.check(self.held)
        held = {cell for start, length in self.held for cell in range(start, start + length)}
        assert sorted(set(range(CELLS)) - held) == self.pool.free_cells()
        assert self.pool.distinct(self.held) == len(held) == CELLS - self.pool.num_free


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_one_hole_that_fits_gives_one_span():
    pool = CellPool(100)
    first = pool.allocate(30)
    assert pool.allocate(70) == [(30, 70)]
    pool.release(first[0])
    assert pool.allocate(30) == [(0, 30)]


def test_fragments_are_chained_largest_first():
    pool = CellPool(30)
    parts = [pool.allocate(10)[0] for _ in range(3)]
    pool.release(parts[0])
    pool.release(parts[2])
    assert pool.allocate(15) == [(0, 10), (20, 5)]


def test_a_chain_ends_in_a_hole_that_fits_the_rest():
    """The largest hole first; what is left goes by the policy, not into the next largest."""
    for high, rest in ((False, (10, 2)), (True, (26, 2))):
        pool = CellPool(40)
        (whole,) = pool.allocate(40)
        assert whole == (0, 40)
        for hole in (Span(10, 5), Span(20, 3), Span(25, 3), Span(30, 9)):
            pool.release(hole)
        assert pool.allocate(11, high=high) == [(30, 9), rest]


def test_branches_take_the_high_end():
    pool = CellPool(100)
    assert pool.allocate(10, high=True) == [(90, 10)]
    assert pool.allocate(10) == [(0, 10)]


def test_a_cell_is_free_when_its_last_holder_goes():
    pool = CellPool(10)
    pool.allocate(6)
    pool.hold(Span(2, 2))
    pool.release(Span(0, 6))
    assert pool.free_cells() == [0, 1, 4, 5, 6, 7, 8, 9]
    pool.release(Span(2, 2))
    assert pool.allocate(10) == [(0, 10)]


def test_a_broken_count_is_found():
    pool = CellPool(10)
    (span,) = pool.allocate(4)
    for wrong in ([], [span, span], [Span(0, 3)]):
        with pytest.raises(AssertionError, match="counts differ"):
            pool.check(wrong)
    with pytest.raises(AssertionError, match="after its last release"):
        pool.hold(Span(3, 2))
    with pytest.raises(AssertionError, match="more often than held"):
        pool.release(Span(3, 2))
