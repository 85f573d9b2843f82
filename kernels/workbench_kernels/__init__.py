"""Attention over runs of cells: one plan of tiles, several backends that execute it.

The device of the tensors decides: ``active(device)`` names the backend, ``native.reason()`` says
why the compiled CPU kernels are not in use where they are not.
"""

from workbench_kernels import native
from workbench_kernels.backends import (
    active,
    add_norm,
    attend,
    gate,
    index_of,
    norm,
    rotate_and_write,
    score,
    write_cells,
    write_kv,
)
from workbench_kernels.scores import Scores
from workbench_kernels.tiles import Run, SliceRows, Tile, TilePlan, plan_tiles

__all__ = [
    "Run", "Scores", "SliceRows", "Tile", "TilePlan", "active", "add_norm", "attend", "gate",
    "index_of", "native", "norm", "plan_tiles", "rotate_and_write", "score", "write_cells",
    "write_kv",
]  # fmt: skip
