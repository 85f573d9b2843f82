"""Tile sizes of the GPU kernels by device and head dim: plain data, looked up, never measured here.

``python -m workbench_kernels.tune`` measures candidates on the GPU at hand and prints rows for
`TABLE`. Nothing is chosen by timing at run time: the same machine always runs the same arithmetic.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class Block(NamedTuple):
    """One size of kernel.

    Attributes:
        rows: packed query rows (row x head of a group) of one program.
        warps: its warps.
        stages: how many blocks of cells are in flight.
    """

    rows: int
    warps: int
    stages: int


class Sizes(NamedTuple):
    """What decides the arithmetic of one row on one device.

    Attributes:
        cells: cells of one step of the loop; the same for all blocks.
        blocks: sizes to choose from by how many rows share a unit, ascending in rows. All must use
            the same matrix instruction, so that the choice changes no bit.
        least_split: the shortest stretch of positions one program takes; a power of two.
        parts: a row at position p is split at multiples of the smallest power of two that covers
            its p + 1 positions in so many parts. The row's own position decides, not the batch.
        wide_from: a slice with so many packed rows of its own is wide: it has programs enough
            without splitting, and partial outputs would cost more than the cells.
        wide_parts: the same as ``parts`` for the rows of a wide slice.
    """

    cells: int
    blocks: tuple[Block, ...]
    least_split: int = 128
    parts: int = 64
    wide_from: int = 512
    wide_parts: int = 8

    def split(self, position: int, packed: int) -> tuple[int, int]:
        """Positions per part for a row at ``position`` whose slice has ``packed`` packed rows.

        Returns:
            The length of a part, and the next position that has another one.
        """
        parts = self.parts if packed < self.wide_from else self.wide_parts
        split = self.least_split
        while split * parts <= position:
            split *= 2
        return split, split * parts


# Which row of TABLE a compute capability uses. What decides is shared memory per multiprocessor
# (KiB for one program: 8.0 and 8.7 163, 8.6, 8.9 and 12.x 99, 9.0 and 10.x 227) and the matrix
# instruction: 9.0 and 10.x multiply in groups of four warps and 64 rows, the others per warp.
FAMILY = {
    (8, 0): "sm_80", (8, 7): "sm_80",
    (8, 6): "sm_120", (8, 9): "sm_120", (12, 0): "sm_120", (12, 1): "sm_120",
    (9, 0): "sm_90", (10, 0): "sm_90", (10, 3): "sm_90",
}  # fmt: skip

# By family and the larger head dim, rounded up to 64, 128 or 256; two-byte elements.
# Derived from shared memory (stages x cells x (k_dim + v_dim) x 2 bytes, two programs to a
# multiprocessor where they fit) and not yet measured on any of these cards; see LOG.md.
TABLE: dict[tuple[str, int], Sizes] = {
    # 64 rows even for one token: one warp group's instruction takes 64, and its time is hidden
    # behind the memory's (256 of 1,640 cycles per block of 64 cells of 128).
    ("sm_90", 64): Sizes(64, (Block(64, 4, 4), Block(128, 8, 4))),
    ("sm_90", 128): Sizes(64, (Block(64, 4, 2), Block(128, 8, 3))),
    ("sm_90", 256): Sizes(32, (Block(64, 4, 3), Block(128, 8, 3))),
    # 16 rows where that is enough: a warp's instruction takes 16.
    ("sm_80", 64): Sizes(64, (Block(16, 1, 4), Block(64, 4, 3), Block(128, 8, 3))),
    ("sm_80", 128): Sizes(32, (Block(16, 1, 4), Block(64, 4, 3), Block(128, 8, 3))),
    ("sm_80", 256): Sizes(16, (Block(16, 2, 4), Block(64, 8, 3))),
    ("sm_120", 64): Sizes(64, (Block(16, 1, 3), Block(64, 4, 3), Block(128, 8, 2))),
    ("sm_120", 128): Sizes(32, (Block(16, 1, 3), Block(64, 4, 2), Block(128, 8, 2))),
    ("sm_120", 256): Sizes(16, (Block(16, 2, 3), Block(64, 8, 2))),
}

# float32 is for checking: exact products without the matrix units, one small block everywhere.
FLOAT32 = Sizes(32, (Block(16, 4, 1),))

# The interpreter takes milliseconds per block; small ones reach every border with few cells.
INTERPRETED = Sizes(
    32, (Block(16, 1, 1), Block(64, 4, 1)), least_split=64, parts=4, wide_from=64, wide_parts=2
)


def family(capability: tuple[int, int]) -> str:
    """The row of `TABLE` for a compute capability; unknown ones get the least demanding."""
    return FAMILY.get(capability, "sm_120")


def lookup(name: str, dtype: torch.dtype, dim: int) -> Sizes:
    """Sizes of a family for the larger of the two head dims."""
    if dtype == torch.float32:
        return FLOAT32
    return TABLE[name, 64 if dim <= 64 else 128 if dim <= 128 else 256]


@cache
def sizes(device: torch.device, dtype: torch.dtype, dim: int) -> Sizes:
    """Sizes for a device: a CUDA device's by its capability, the interpreter's on a CPU."""
    if device.type == "cpu":
        return INTERPRETED
    return lookup(family(torch.cuda.get_device_capability(device)), dtype, dim)
