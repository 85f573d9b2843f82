"""A tile plan in parts: which rows read which stretch of positions together. Integers only.

A row's positions are cut at multiples of a power of two that its own position decides
(`tuning.Sizes.split`), so that its sums have one order whoever else is in the step. Rows of
different slices share a part where all its cells are the same for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from workbench_kernels.tiles import Run, SliceRows, TilePlan
from workbench_kernels.tuning import Sizes

PIECES = 4  # runs and holes a part may have before it is cut again: `Unit` has so many offsets
HOLE = -(2**30)  # offset of a hole: every cell of it comes out negative


class Piece(NamedTuple):
    """Positions from ``position`` on lie at the cells ``position + offset``."""

    position: int
    offset: int


class Part(NamedTuple):
    """Rows against ``length`` positions from each of ``starts`` on.

    Attributes:
        rows: ``(first_row, num_rows)`` ranges.
        starts: multiples of the block of cells.
        length: positions; the last block may be cut short.
        clear: so many from the start are seen by all rows, and are in the first piece.
        pieces: in order, the first at or before the start.
    """

    rows: tuple[tuple[int, int], ...]
    starts: range
    length: int
    clear: int
    pieces: tuple[Piece, ...]


def parts(plan: TilePlan, group: int, sizes: Sizes) -> Iterator[Part]:
    """All parts of a plan; those of one row are disjoint and cover what it sees.

    Args:
        plan: the step's tiles.
        group: query heads per KV head.
        sizes: where to split, and the block of cells that starts are multiples of.
    """
    readers = list(_readers(plan, group, sizes))
    yield from _whole(readers, plan.window)
    yield from _edges(readers, plan.window, sizes.cells)


def slices_of(plan: TilePlan) -> list[SliceRows]:
    """The plan's slices again, with the runs that its window leaves them."""
    borders = {0, len(plan.positions)}
    borders.update(i for i, (a, b) in enumerate(pairwise(plan.positions), 1) if b != a + 1)
    borders.update(row for tile in plan.tiles for first, num in tile.rows
                   for row in (first, first + num))  # fmt: skip
    edges = sorted(borders)
    runs: dict[int, list[Run]] = defaultdict(list)
    for tile in plan.tiles:
        for first, num in tile.rows:
            for row in edges[bisect_left(edges, first) : bisect_left(edges, first + num)]:
                runs[row].append(Run(tile.start, tile.length, tile.position))
    return [
        SliceRows(first, end - first, plan.positions[first], _joined(runs[first]))
        for first, end in pairwise(edges)
        if first in runs
    ]


def _joined(runs: list[Run]) -> tuple[Run, ...]:
    """In order of position, those that continue each other as one."""
    out: list[Run] = []
    for run in sorted(runs, key=lambda run: run.position):
        last = out[-1] if out else None
        if last and run == Run(last.start + last.length, run.length, last.position + last.length):
            out[-1] = last._replace(length=last.length + run.length)
        else:
            out.append(run)
    return tuple(out)


class _Reader(NamedTuple):
    """Consecutive rows of one slice that are split alike; ``runs`` are the whole slice's."""

    first_row: int
    first: int  # position of the first row
    last: int  # of the last
    split: int
    runs: tuple[Run, ...]

    def rows(self, first: int, last: int) -> tuple[int, int]:
        """The rows at the positions ``first .. last``, both included."""
        first, last = max(first, self.first), min(last, self.last)
        return self.first_row + first - self.first, last - first + 1

    def whole(self, run: Run, window: int | None) -> range:
        """Numbers of the parts that lie in the run and that every row sees all of."""
        first = run.position if window is None else max(run.position, self.last - window + 1)
        last = min(run.position + run.length, self.first + 1)
        return range(-(-first // self.split), last // self.split)

    def touched(self, run: Run) -> range:
        """Numbers of the parts that have positions in the run, up to the last row's own."""
        last = min(run.position + run.length, self.last + 1)
        return range(run.position // self.split, -(-last // self.split))

    def pieces(self, part: int, window: int | None) -> Iterator[tuple[int, int, tuple[Piece, ...]]]:
        """``(first, end, pieces)`` of a part, cut again after every so many pieces."""
        low, high = part * self.split, min((part + 1) * self.split, self.last + 1)
        if window is not None:
            low = max(low, self.first - window + 1)
        start = end = low
        pieces: list[Piece] = []
        for run in self.runs:
            first, last = max(low, run.position), min(high, run.position + run.length)
            if first >= last:
                continue
            new = [Piece(first, run.start - run.position)]
            if pieces and first > end:
                new.insert(0, Piece(end, HOLE))
            if len(pieces) + len(new) > PIECES:
                yield start, end, tuple(pieces)
                pieces = []
            if not pieces:  # a hole first: blocks are aligned, a part may begin inside one
                start, new = first, [Piece(0, HOLE), new[-1]]
            pieces += new
            end = last
        if pieces:
            yield start, end, tuple(pieces)


def _readers(plan: TilePlan, group: int, sizes: Sizes) -> Iterator[_Reader]:
    for item in slices_of(plan):
        row = 0
        while row < item.num_rows:
            position = item.position + row
            split, until = sizes.split(position, item.num_rows * group)
            num = min(item.num_rows - row, until - position)
            yield _Reader(item.first_row + row, position, position + num - 1, split, item.runs)
            row += num


def _whole(readers: list[_Reader], window: int | None) -> Iterator[Part]:
    """Parts in one run that all rows of a slice see: in stretches with the same readers."""
    by_run: dict[tuple[int, int], list[tuple[range, _Reader]]] = defaultdict(list)
    for reader in readers:
        for run in reader.runs:
            if numbers := reader.whole(run, window):
                by_run[reader.split, run.start - run.position].append((numbers, reader))
    for (split, offset), claims in by_run.items():
        borders = sorted({k for numbers, _ in claims for k in (numbers.start, numbers.stop)})
        for first, end in pairwise(borders):
            rows = tuple(r.rows(r.first, r.last) for numbers, r in claims if first in numbers)
            if rows:
                starts = range(first * split, end * split, split)
                yield Part(rows, starts, split, split, (Piece(0, offset),))


def _edges(readers: list[_Reader], window: int | None, cells: int) -> Iterator[Part]:
    """The other parts, one by one: where runs, windows and rows begin and end."""
    edges: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for reader in readers:
        numbers: set[int] = set()
        for run in reader.runs:
            numbers |= set(reader.touched(run)) - set(reader.whole(run, window))
        for number in sorted(numbers):
            for first, end, pieces in reader.pieces(number, window):
                last = reader.last if window is None else end - 2 + window  # who sees any of it
                edges[first, end, pieces].append(reader.rows(first, last))
    for (first, end, pieces), rows in edges.items():
        start = first // cells * cells
        yield Part(tuple(rows), range(start, start + 1), end - start, 0, pieces)
