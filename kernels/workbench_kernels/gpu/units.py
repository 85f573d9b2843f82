"""A tile plan as index tensors on the device: made once per step, read by every layer.

A unit is one program's work per KV head: a block of a part's packed rows (row x head of a group)
against one of its stretches of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench_kernels.gpu.parts import HOLE, PIECES, Part, parts
from workbench_kernels.tiles import TilePlan
from workbench_kernels.tuning import Sizes

FIELDS = 16  # int32 per unit in the device's table: those of `Unit`, and two unused


class Unit(NamedTuple):
    """A unit as the kernel reads it; the table's columns in this order.

    Attributes:
        rows_at: where its rows begin in ``row_ids``.
        num_rows: how many there are; 0 in padding of the table.
        packed: the first packed row of this block.
        slot: where its partial results go: that of the first row, the others follow.
        start, clear, end: positions; every row sees all cells from start up to clear, and they
            are at ``offset0``. Both are multiples of the block of cells.
        offset0 .. offset3: cell minus position, from ``cut`` on; negative cells are holes.
        cut1 .. cut3: positions at which the next offset begins to hold.
    """

    rows_at: int
    num_rows: int
    packed: int
    slot: int
    start: int
    clear: int
    end: int
    offset0: int
    cut1: int
    offset1: int
    cut2: int
    offset2: int
    cut3: int
    offset3: int


class Shape(NamedTuple):
    """Padded counts: steps of one shape launch the same grids over tensors of the same sizes.

    Attributes:
        rows: rows of q.
        units: rows of each table, one table per block size.
        row_ids, parts: lengths of these tensors.
        slots: partial results per head.
    """

    rows: int
    units: tuple[int, ...]
    row_ids: int
    parts: int
    slots: int


@dataclass(frozen=True)
class Index:
    """All that attention reads besides q, k, v and sinks, in one int32 tensor on the device.

    A captured graph reads ``buffer`` through the views; `refill` lets it run another step of the
    same shape.

    Attributes:
        shape: the padded counts.
        buffer: int32, everything below one after the other.
        tables: per block size int32 ``[units, FIELDS]``.
        row_ids: int32, the rows of each unit.
        positions: int32, one per row.
        parts_at, parts: int32, the slots of each row's partial results in order of position.
    """

    shape: Shape
    buffer: Tensor
    tables: tuple[Tensor, ...]
    row_ids: Tensor
    positions: Tensor
    parts_at: Tensor
    parts: Tensor

    def refill(self, other: Index) -> None:
        """Take over another step's index; its shape must be the same."""
        assert other.shape == self.shape, (other.shape, self.shape)
        self.buffer.copy_(other.buffer, non_blocking=True)


def of(plan: TilePlan, group: int, sizes: Sizes, device: torch.device, rows: int) -> Index:
    """The plan's index on a device, made on the first call of a step."""
    key = ("gpu", group, sizes, device, rows)
    if key not in plan.prepared:
        plan.prepared[key] = build(plan, group, sizes, device, rows)
    index: Index = plan.prepared[key]
    return index


def build(plan: TilePlan, group: int, sizes: Sizes, device: torch.device, rows: int) -> Index:
    """Lay a plan out as units.

    Args:
        plan: the step's tiles.
        group: query heads per KV head.
        sizes: tile sizes.
        device: where the index goes; the copy from pinned memory is not waited for.
        rows: rows of q; those beyond the plan's attend to nothing.
    """
    assert rows >= len(plan.positions), (rows, len(plan.positions))
    draft = _Draft(sizes, group)
    for part in parts(plan, group, sizes):
        draft.add(part)
    results = np.concatenate(draft.results)
    results = results[np.lexsort((results[:, 1], results[:, 0]))]
    parts_at = np.searchsorted(results[:, 0], np.arange(rows + 1))
    counts = [sum(map(len, tables)) for tables in draft.tables]
    shape = Shape(rows, tuple(map(_padded, counts)), _padded(draft.listed),
                  _padded(len(results)), _padded(draft.slots))  # fmt: skip
    sections = [(np.concatenate(tables), units * FIELDS)
                for tables, units in zip(draft.tables, shape.units, strict=True)]  # fmt: skip
    sections += [
        (np.concatenate(draft.row_ids), shape.row_ids),
        (np.asarray(plan.positions), _aligned(rows)),
        (parts_at, _aligned(rows + 1)),
        (results[:, 2], shape.parts),
    ]
    return _place(sections, shape, device)


class _Draft:
    """Units as they are added, part by part."""

    def __init__(self, sizes: Sizes, group: int) -> None:
        self.blocks = [block.rows for block in sizes.blocks]
        self.group = group
        self.tables = [[np.zeros((0, FIELDS), np.int64)] for _ in self.blocks]
        self.row_ids = [np.zeros(0, np.int64)]
        self.results = [np.zeros((0, 3), np.int64)]  # [row, end of its part, slot]
        self.listed = self.slots = 0

    def add(self, part: Part) -> None:
        """Blocks of the part's packed rows, times its stretches; a slot per row and stretch."""
        ids = np.concatenate([np.arange(first, first + num) for first, num in part.rows])
        starts, packed = np.asarray(part.starts), len(ids) * self.group
        slots = self.slots + len(ids) * np.arange(len(starts))
        choice = next((i for i, rows in enumerate(self.blocks) if rows >= packed), -1)
        blocks = np.arange(0, packed, self.blocks[choice])
        ends = starts[:, None] + part.length  # no two parts of a row end together

        unit = Unit(self.listed, len(ids), 0, 0, 0, 0, 0, *_offsets(part))
        table = np.zeros((len(starts), len(blocks), FIELDS), np.int64)
        table[..., : len(unit)] = unit
        for name, values in [
            ("packed", blocks),
            ("slot", slots[:, None]),
            ("start", starts[:, None]),
            ("clear", starts[:, None] + part.clear),
            ("end", ends),
        ]:
            table[..., Unit._fields.index(name)] = values
        self.tables[choice].append(table.reshape(-1, FIELDS))

        each = np.broadcast_arrays(ids, ends, slots[:, None] + np.arange(len(ids)))
        self.results.append(np.stack(each, axis=-1).reshape(-1, 3))
        self.row_ids.append(ids)
        self.listed += len(ids)
        self.slots += len(starts) * len(ids)


def _offsets(part: Part) -> list[int]:
    """``offset0, cut1, offset1, ..``; what there are no pieces for is never reached."""
    missing = [(2**31 - 1, HOLE)] * (PIECES - len(part.pieces))
    return [value for piece in [*part.pieces, *missing] for value in piece][1:]


def _place(sections: list[tuple[np.ndarray, int]], shape: Shape, device: torch.device) -> Index:
    """Put each section's values at the front of its share of one tensor, and that on the device."""
    sizes = [size for _, size in sections]
    host = torch.zeros(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    for (values, _), share in zip(sections, host.split(sizes), strict=True):
        share.numpy()[: values.size] = values.ravel()
    buffer = host.to(device, non_blocking=True)
    *tables, row_ids, positions, parts_at, slots = buffer.split(sizes)
    shaped = tuple(table.view(-1, FIELDS) for table in tables)
    return Index(shape, buffer, shaped, row_ids, positions, parts_at, slots)


def _aligned(count: int) -> int:
    """To 64 bytes, so that every section is read with full-width loads."""
    return -(-count // 16) * 16


def _padded(count: int) -> int:
    """Counts in few steps, so that few graphs serve many steps; 0 stays 0: nothing to launch."""
    return 0 if count == 0 else max(16, 1 << (count - 1).bit_length())
