"""Runs and query rows -> tiles. Plain integers: planned once per step, executed in every layer.

A tile is some query rows against one stretch of one run. Rows of different sequences that read the
same cells share a tile, so the cells are read once for all of them (cascade attention); a stretch
is cut only where the set of readers changes and where a run ends. So who else reads a run decides
in which order a row's partial outputs are merged: on CPUs an answer's last bits may depend on it.
The GPU's parts (`gpu/parts.py`) are cut by each row's own position instead.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Run(NamedTuple):
    """Consecutive cells that hold consecutive positions of one sequence, from ``position`` on."""

    start: int
    length: int
    position: int


def consecutive(*spans: tuple[int, int], position: int = 0) -> tuple[Run, ...]:
    """Runs over ``(start, length)`` stretches of cells, one after the other from a position on."""
    runs = []
    for start, length in spans:
        runs.append(Run(start, length, position))
        position += length
    return tuple(runs)


class SliceRows(NamedTuple):
    """The query rows of one sequence in a step, and the cells they may read.

    ``runs`` are in order of their positions and end at ``position + num_rows``, the rows' own cells
    included. They need not begin at 0 and may leave a gap: rows that have left a window.
    """

    first_row: int
    num_rows: int
    position: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Tile:
    """Query rows against the cells ``start .. start + length``.

    ``rows`` are ``(first_row, num_rows)`` ranges of the ragged batch. ``position`` is that of the
    first cell. Where ``masked``, a row sees a cell only if the cell's position is at most its own
    and, under a sliding window, less than ``window`` behind it; otherwise every row sees all.
    """

    rows: tuple[tuple[int, int], ...]
    start: int
    length: int
    position: int
    masked: bool


@dataclass(frozen=True)
class TilePlan:
    """All tiles of one step for one window size (None: full attention).

    ``positions[row]`` is the position of each query row; rows no tile names attend to nothing.
    ``prepared`` is a backend's own: what it derives from the plan once, for all layers.
    """

    tiles: tuple[Tile, ...]
    positions: tuple[int, ...]
    window: int | None = None
    prepared: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


class _Reader(NamedTuple):
    """One slice's claim on the cells ``start .. end``; ``position`` is that of ``start``."""

    start: int
    end: int
    position: int
    item: SliceRows


def _readers(slices: list[SliceRows], window: int | None) -> list[_Reader]:
    readers = []
    for item in slices:
        first = 0 if window is None else max(0, item.position - window + 1)
        end = 0
        for run in item.runs:
            if run.position < end:
                msg = f"a run begins at position {run.position}, the one before ends at {end}"
                raise ValueError(msg)
            end = run.position + run.length
            skip = max(0, first - run.position)
            if skip < run.length:
                start = run.start + skip
                position = run.position + skip
                readers.append(_Reader(start, run.start + run.length, position, item))
        if end != item.position + item.num_rows:
            msg = f"runs end at position {end}, rows at {item.position + item.num_rows}"
            raise ValueError(msg)
    return readers


def _cuts(readers: list[_Reader]) -> list[int]:
    return sorted({cell for start, end, *_ in readers for cell in (start, end)})


def _ranges(items: list[SliceRows]) -> tuple[tuple[int, int], ...]:
    """Row ranges of some slices, neighbours joined."""
    out: list[tuple[int, int]] = []
    for first, num in sorted((s.first_row, s.num_rows) for s in items):
        if out and out[-1][0] + out[-1][1] == first:
            out[-1] = (out[-1][0], out[-1][1] + num)
        else:
            out.append((first, num))
    return tuple(out)


def plan_tiles(slices: list[SliceRows], *, window: int | None = None) -> TilePlan:
    """Plan the attention of one step.

    Args:
        slices: the step's query rows; their row ranges must tile ``0 .. total`` in order.
        window: sliding window in positions, or None for full causal attention.
    """
    positions = tuple(s.position + i for s in slices for i in range(s.num_rows))
    readers = _readers(slices, window)
    cuts = _cuts(readers)
    at = {cell: i for i, cell in enumerate(cuts)}
    by_stretch: dict[int, list[_Reader]] = defaultdict(list)
    for reader in readers:
        for i in range(at[reader.start], at[reader.end]):
            by_stretch[i].append(reader)

    tiles = []
    for i, here in sorted(by_stretch.items()):
        start, end = cuts[i], cuts[i + 1]
        position = here[0].position + start - here[0].start
        last = position + end - start - 1
        clear: list[SliceRows] = []
        masked: list[SliceRows] = []
        for reader in here:
            item = reader.item
            hidden = last > item.position
            if window is not None:
                hidden = hidden or position <= item.position + item.num_rows - 1 - window
            (masked if hidden else clear).append(item)
        for items, is_masked in ((clear, False), (masked, True)):
            if items:
                tiles.append(Tile(_ranges(items), start, end - start, position, is_masked))
    return TilePlan(tuple(tiles), positions, window)
