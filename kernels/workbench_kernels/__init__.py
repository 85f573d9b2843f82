"""Attention over runs of cells: one plan of tiles, several backends that execute it.

``active()`` says which backend ``attend`` uses. Nothing falls back silently: a backend that cannot
run something raises.
"""

from workbench_kernels.cpu import attend, write_cells
from workbench_kernels.tiles import Run, SliceRows, Tile, TilePlan, plan_tiles

__all__ = ["Run", "SliceRows", "Tile", "TilePlan", "active", "attend", "plan_tiles", "write_cells"]


def active() -> str:
    """Name of the backend that ``attend`` runs on."""
    return "cpu"
