"""The pool of cells: how many hold each cell, and the holes between them. Integers only."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from workbench.errors import CellsExhausted


class Span(NamedTuple):
    """The cells ``start .. start + length``."""

    start: int
    length: int


class CellPool:
    """Hands out cells ``0 .. num_cells``; a cell is free when its last holder lets it go."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.num_free = num_cells
        self._holders = np.zeros(num_cells, dtype=np.int32)
        self._holes: list[Span] = [Span(0, num_cells)] if num_cells else []

    def allocate(self, num_cells: int, *, high: bool = False) -> list[Span]:
        """Take ``num_cells`` cells: one span where a hole is large enough, else a chain.

        Args:
            num_cells: how many; the caller becomes their one holder.
            high: take from the high end, in the smallest hole that fits. Short-lived branches go
                there so that sessions, at the low end, find large holes.

        Raises:
            CellsExhausted: fewer cells are free. Nothing is taken.
        """
        if num_cells > self.num_free:
            msg = f"{num_cells} cells wanted, {self.num_free} of {self.num_cells} are free"
            raise CellsExhausted(msg)
        taken: list[Span] = []
        # Sorted once: a chain through hundreds of holes must not search them all for every link.
        for hole in sorted(self._holes, key=lambda h: h.length, reverse=True):
            if not num_cells:
                break
            if hole.length >= num_cells:
                hole = self._fitting(num_cells, high)
            taken.append(self._carve(hole, min(num_cells, hole.length), high))
            num_cells -= taken[-1].length
        return taken

    def _fitting(self, num_cells: int, high: bool) -> Span:
        """Of the holes that are large enough: low, the first; high, the smallest."""
        fitting = (hole for hole in self._holes if hole.length >= num_cells)
        return min(fitting, key=lambda h: (h.length, -h.start)) if high else next(fitting)

    def _carve(self, hole: Span, num_cells: int, high: bool) -> Span:
        rest = hole.length - num_cells
        at = bisect_left(self._holes, hole)
        start = hole.start + rest if high else hole.start
        if rest:
            self._holes[at] = Span(hole.start if high else hole.start + num_cells, rest)
        else:
            del self._holes[at]
        self._holders[start : start + num_cells] = 1
        self.num_free -= num_cells
        return Span(start, num_cells)

    def hold(self, span: Span) -> None:
        """Add a holder to every cell of a span."""
        cells = self._holders[span.start : span.start + span.length]
        assert cells.all(), "held after its last release"
        cells += 1

    def release(self, span: Span) -> None:
        """Drop one holder of every cell; those left without one are free again."""
        cells = self._holders[span.start : span.start + span.length]
        assert cells.all(), "released more often than held"
        cells -= 1
        edges = np.flatnonzero(np.diff(cells == 0, prepend=False, append=False))
        for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            self._free(span.start + first, span.start + end)

    def _free(self, start: int, end: int) -> None:
        """Make a hole, joined with its neighbours."""
        self.num_free += end - start
        at = bisect_left(self._holes, Span(start, 0))
        if at < len(self._holes) and self._holes[at].start == end:
            end += self._holes.pop(at).length
        if at and sum(self._holes[at - 1]) == start:
            start = self._holes.pop(at - 1).start
        insort(self._holes, Span(start, end - start))

    def free_cells(self) -> list[int]:
        """Every free cell, in order."""
        return np.flatnonzero(self._holders == 0).tolist()

    def distinct(self, spans: Iterable[Span]) -> int:
        """How many different cells some spans name together."""
        named = np.zeros(self.num_cells, dtype=bool)
        for start, length in spans:
            named[start : start + length] = True
        return int(named.sum())

    def check(self, held: Iterable[Span]) -> None:
        """Prove the books: free + held = total, and every cell's count equals its holders.

        Args:
            held: every span that every living sequence holds, once per holder.
        """
        counts = np.zeros(self.num_cells, dtype=np.int32)
        for start, length in held:
            assert start >= 0 and length > 0 and start + length <= self.num_cells, "no such cells"
            counts[start : start + length] += 1
        assert (counts == self._holders).all(), "counts differ from the holders"
        in_holes = np.zeros(self.num_cells, dtype=bool)
        end = -1
        for hole in self._holes:
            assert hole.start > end and hole.length > 0, "holes overlap, touch or are out of order"
            end = hole.start + hole.length
            in_holes[hole.start : end] = True
        assert (in_holes == (counts == 0)).all(), "a cell is in a hole and held, or in neither"
        assert self.num_free == int(in_holes.sum()), "free cells are miscounted"
