"""Sequences: positions, and the runs of cells that hold them. Branching copies nothing."""

from __future__ import annotations

from workbench.cells.pool import CellPool, Span
from workbench_kernels.tiles import Run


class Sequence:
    """Append-only positions over runs of cells; the oldest may be cut out.

    Positions up to ``capacity`` have a cell; positions up to ``length`` have been computed. A
    branch's first runs belong to its parent as well: both hold the cells.

    Attributes:
        length: the next position to compute.
        capacity: where the cells end, as a position.
        gap: positions that were cut out, all at one place.
    """

    def __init__(self, pool: CellPool) -> None:
        self.pool = pool
        self.length = 0
        self.capacity = 0
        self.gap = 0
        self._runs: list[Run] = []

    @property
    def num_cells(self) -> int:
        """Cells it holds."""
        return self.capacity - self.gap

    @property
    def spans(self) -> list[Span]:
        """The cells it holds, in the order of its positions."""
        return [Span(run.start, run.length) for run in self._runs]

    def grow(self, num_cells: int, *, high: bool = False) -> None:
        """Add cells of its own for ``num_cells`` more positions.

        Raises:
            CellsExhausted: too few are free; nothing changes.
        """
        for span in self.pool.allocate(num_cells, high=high):
            self._append(span)

    def runs(self, end: int) -> tuple[Run, ...]:
        """The runs of the positions before ``end``."""
        assert end <= self.capacity, "runs wanted past the last cell"
        return tuple(_clip(run, 0, end) for run in self._runs if run.position < end)

    def slots(self, start: int, end: int) -> list[int]:
        """The cells of positions ``start .. end``."""
        assert end <= self.capacity, "slots wanted past the last cell"
        out: list[int] = []
        for run in self._runs:
            if run.position < end and run.position + run.length > start:
                part = _clip(run, start, end)
                out.extend(range(part.start, part.start + part.length))
        return out

    def branch(self, at: int) -> Sequence:
        """A new sequence that begins with this one's positions before ``at``, sharing their cells.

        ``at`` may lie past ``length``: a step writes a parent's cells before a branch reads them.
        """
        child = Sequence(self.pool)
        child._runs = list(self.runs(at))
        child.length = child.capacity = at
        child.gap = at - sum(run.length for run in child._runs)
        for span in child.spans:
            self.pool.hold(span)
        return child

    def adopt(self, other: Sequence, end: int) -> None:
        """Take the next positions, up to ``end``, from a sequence that has computed the same.

        As many of this one's own cells, which were to hold them, go back to the pool: from the end,
        so that what is left stays in long runs.
        """
        assert self.length < end <= min(other.length, self.capacity), "nothing to adopt"
        assert self.gap == other.gap == 0, "cells of a cut sequence depend on what was cut"
        capacity = self.capacity
        unused = Sequence(self.pool)
        for run in self._runs:
            if run.position + run.length > self.length:
                part = _clip(run, self.length, capacity)
                unused._append(Span(part.start, part.length))
        self._runs = list(self.runs(self.length))
        self.capacity = self.length
        for run in other.runs(end):
            if run.position + run.length > self.length:
                part = _clip(run, self.length, end)
                span = Span(part.start, part.length)
                self.pool.hold(span)
                self._append(span)
        kept = unused.runs(capacity - end)
        for run in kept:
            self._append(Span(run.start, run.length))
        for run in unused._runs:
            if run.position + run.length > capacity - end:
                part = _clip(run, capacity - end, unused.capacity)
                self.pool.release(Span(part.start, part.length))
        self.length = end

    def cut(self, start: int, end: int) -> Sequence:
        """Cut positions ``start .. end`` out; they must touch what was cut before.

        Returns:
            A sequence that now holds their cells, for whoever still reads them.
        """
        assert start < end <= self.length, "only computed positions can be cut"
        out = Sequence(self.pool)
        kept: list[Run] = []
        for run in self._runs:
            run_end = run.position + run.length
            if run.position < start:
                kept.append(_clip(run, 0, start))
            if run.position < end and run_end > start:
                part = _clip(run, start, end)
                out._append(Span(part.start, part.length))
            if run_end > end:
                kept.append(_clip(run, end, run_end))
        # Positions without a cell, also before the first run and after the last.
        ends = [0, *(run.position + run.length for run in kept)]
        begins = [*(run.position for run in kept), self.capacity]
        gaps = sum(end != begin for end, begin in zip(ends, begins, strict=True))
        assert gaps <= 1, "a cut must touch the one before"
        out.length = out.capacity
        self._runs = kept
        self.gap += out.num_cells
        return out

    def drop(self) -> None:
        """Let go of all cells; those nobody else holds are free again."""
        for span in self.spans:
            self.pool.release(span)
        self._runs = []
        self.length = self.capacity = self.gap = 0

    def _append(self, span: Span) -> None:
        """Cells for the positions from ``capacity`` on; one run with the last where they touch."""
        last = self._runs[-1] if self._runs else None
        touches = (
            last is not None
            and last.start + last.length == span.start
            and last.position + last.length == self.capacity
        )
        if last is not None and touches:
            self._runs[-1] = last._replace(length=last.length + span.length)
        else:
            self._runs.append(Run(span.start, span.length, self.capacity))
        self.capacity += span.length


def _clip(run: Run, start: int, end: int) -> Run:
    """The part of a run that lies in positions ``start .. end``."""
    skip = max(0, start - run.position)
    stop = min(run.length, end - run.position)
    return Run(run.start + skip, stop - skip, run.position + skip)
