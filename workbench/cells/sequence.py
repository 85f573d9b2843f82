"""Sequences: positions, and the runs of cells that hold them. Branching copies nothing."""

from __future__ import annotations

from workbench.cells.pool import CellPool, Extent
from workbench_kernels.tiles import Run


class Sequence:
    """Append-only positions ``0 .. length`` over runs of cells.

    Positions up to ``capacity`` have a cell; positions up to ``length`` have been computed. A
    branch's first runs belong to its parent as well: both hold the extents.
    """

    def __init__(self, pool: CellPool) -> None:
        self.pool = pool
        self.length = 0
        self.capacity = 0
        self._parts: list[tuple[Extent, Run]] = []

    @property
    def extents(self) -> list[Extent]:
        """The extents this sequence holds, in the order of its positions."""
        return [extent for extent, _ in self._parts]

    def grow(self, num_cells: int, *, high: bool = False) -> None:
        """Add cells of its own for ``num_cells`` more positions.

        Raises:
            CellsExhausted: too few are free; nothing changes.
        """
        for extent in self.pool.allocate(num_cells, high=high):
            self._parts.append((extent, Run(extent.start, extent.length)))
        self.capacity += num_cells

    def runs(self, end: int) -> tuple[Run, ...]:
        """The runs of positions ``0 .. end``; extents that touch are one run."""
        assert end <= self.capacity, "runs wanted past the last cell"
        out: list[Run] = []
        for _, run in self._parts:
            if end <= 0:
                break
            length = min(run.length, end)
            end -= length
            if out and out[-1].start + out[-1].length == run.start:
                out[-1] = Run(out[-1].start, out[-1].length + length)
            else:
                out.append(Run(run.start, length))
        return tuple(out)

    def slots(self, start: int, end: int) -> list[int]:
        """The cells of positions ``start .. end``."""
        assert end <= self.capacity, "slots wanted past the last cell"
        out: list[int] = []
        position = 0
        for _, run in self._parts:
            first, last = max(start, position), min(end, position + run.length)
            out.extend(range(run.start + first - position, run.start + last - position))
            position += run.length
        return out

    def branch(self, at: int) -> Sequence:
        """A new sequence that begins with this one's positions ``0 .. at``, sharing their cells.

        ``at`` may lie past ``length``: a step writes a parent's cells before a branch reads them.
        """
        assert at <= self.capacity, "branch wanted past the last cell"
        child = Sequence(self.pool)
        child.length = child.capacity = at
        left = at
        for extent, run in self._parts:
            if left <= 0:
                break
            self.pool.hold(extent)
            child._parts.append((extent, Run(run.start, min(run.length, left))))
            left -= run.length
        return child

    def drop(self) -> None:
        """Let go of all cells; those nobody else holds are free again."""
        for extent, _ in self._parts:
            self.pool.release(extent)
        self._parts, self.length, self.capacity = [], 0, 0
