"""Attention over runs of cells: one plan of tiles, several backends that execute it.

``active()`` says which backend ``attend`` uses, ``native.reason()`` why the compiled CPU kernels
are not in use where they are not.
"""

from workbench_kernels import native
from workbench_kernels.cpu import attend, write_cells
from workbench_kernels.tiles import Run, SliceRows, Tile, TilePlan, plan_tiles

__all__ = ["Run", "SliceRows", "Tile", "TilePlan", "active", "attend", "plan_tiles", "write_cells"]


def active() -> str:
    """``"cpu-native"`` where bfloat16 runs on the compiled kernels, ``"cpu"`` where on torch's."""
    return "cpu-native" if native.available() else "cpu"
