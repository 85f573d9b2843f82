"""The pool of cells: extents with reference counts, and the holes between them. Integers only."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.errors import CellsExhausted


@dataclass(eq=False)
class Extent:
    """A stretch of consecutive cells that is handed out, and taken back, as one."""

    start: int
    length: int
    refs: int = 1

    @property
    def end(self) -> int:
        """One past the last cell."""
        return self.start + self.length


class CellPool:
    """Hands out cells ``0 .. num_cells``; every cell is in exactly one hole or one extent."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.num_free = num_cells
        self._holes: list[tuple[int, int]] = [(0, num_cells)] if num_cells else []
        self._extents: set[Extent] = set()

    def allocate(self, num_cells: int, *, high: bool = False) -> list[Extent]:
        """Take ``num_cells`` cells: one extent where a hole is large enough, else a chain.

        Args:
            num_cells: how many; the caller becomes the one holder of each extent.
            high: take from the high end, in the smallest hole that fits. Short-lived branches go
                there so that sessions, at the low end, find large holes.

        Raises:
            CellsExhausted: fewer cells are free. Nothing is taken.
        """
        if num_cells > self.num_free:
            msg = f"{num_cells} cells wanted, {self.num_free} of {self.num_cells} are free"
            raise CellsExhausted(msg)
        taken: list[Extent] = []
        while num_cells > 0:
            fitting = [hole for hole in self._holes if hole[1] >= num_cells]
            if fitting:
                hole = min(fitting, key=lambda h: (h[1], -h[0])) if high else fitting[0]
            else:
                hole = max(self._holes, key=lambda h: h[1])
            taken.append(self._carve(hole, min(num_cells, hole[1]), high))
            num_cells -= taken[-1].length
        return taken

    def _carve(self, hole: tuple[int, int], num_cells: int, high: bool) -> Extent:
        start, length = hole
        self._holes.remove(hole)
        if length > num_cells:
            rest = (start, length - num_cells) if high else (start + num_cells, length - num_cells)
            insort(self._holes, rest)
        extent = Extent(start + length - num_cells if high else start, num_cells)
        self._extents.add(extent)
        self.num_free -= num_cells
        return extent

    def hold(self, extent: Extent) -> None:
        """Add a holder: the extent stays until every holder has released it."""
        assert extent in self._extents, "held after its last release"
        extent.refs += 1

    def release(self, extent: Extent) -> None:
        """Drop one holder; the last one gives the cells back, joined with neighbouring holes."""
        assert extent in self._extents, "released more often than held"
        extent.refs -= 1
        if extent.refs:
            return
        self._extents.remove(extent)
        self.num_free += extent.length
        start, end = extent.start, extent.end
        for hole in [h for h in self._holes if h[0] == end or h[0] + h[1] == start]:
            self._holes.remove(hole)
            start, end = min(start, hole[0]), max(end, hole[0] + hole[1])
        insort(self._holes, (start, end - start))

    def free_cells(self) -> list[int]:
        """Every free cell, in order."""
        return [cell for start, length in self._holes for cell in range(start, start + length)]

    def check(self, held: Iterable[Extent]) -> None:
        """Prove the books: free + held = total, no overlap, reference counts equal the holders.

        Args:
            held: every extent that every living sequence holds, once per holder.
        """
        spans = sorted([*self._holes, *((extent.start, extent.length) for extent in self._extents)])
        end = 0
        for start, length in spans:
            assert start == end and length > 0, f"cells {end}..{start} are in nothing, or in two"
            end = start + length
        assert end == self.num_cells, f"cells end at {end}, the pool at {self.num_cells}"
        free = sum(length for _, length in self._holes)
        assert free == self.num_free, f"{free} cells free, {self.num_free} counted"
        assert all(
            a[0] + a[1] < b[0] for a, b in zip(self._holes, self._holes[1:], strict=False)
        ), "neighbouring holes not joined"
        holders = Counter(held)
        assert holders == {extent: extent.refs for extent in self._extents}, "refs != holders"
