"""How many cells the pool has, by the memory that there is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from workbench.engine.graphs import CAPTURING
from workbench.errors import CellsExhausted

DEFAULT_CELLS = 65_536
MEMORY_SHARE = 0.5  # of what is available, for the pool, where `cells` is not given
UNKNOWN = 4 * 2**30  # bytes, where the system does not say
GPU_SHARE = 0.9  # of a GPU's memory that is free after the weights, at most


def pool_size(cells: int | None, bytes_per_cell: int, device: str, dim: int) -> int:
    """Cells of the pool: as many as asked for, or as usual. Kernels on a GPU index a head's cells,
    of ``dim`` numbers each, with 32 bits."""
    most = 2**31
    if device == "cpu":
        available = available_memory()
        usual = min(DEFAULT_CELLS, int(MEMORY_SHARE * available) // bytes_per_cell)
    else:  # nobody else wants it
        with CAPTURING, contextlib.suppress(RuntimeError):  # it is mere tidiness
            torch.cuda.empty_cache()  # what loading the model has freed
        available, _ = torch.cuda.mem_get_info(device)
        most = (2**31 - 1) // dim
        available = int(GPU_SHARE * available)  # steps need the rest
        usual = min(available // bytes_per_cell, most)
    if cells is None:
        return max(1024, usual)
    if cells < 2 or cells * bytes_per_cell > available:
        msg = (
            f"cells={cells:,} take {cells * bytes_per_cell / 1e9:.1f} GB at {bytes_per_cell:,} "
            f"bytes each; expected at least 2 and at most {available // bytes_per_cell:,}, which "
            "the available memory holds"
        )
        raise CellsExhausted(msg)
    if cells > most:
        msg = f"cells={cells:,}: expected at most {most:,}, which the kernels can index"
        raise CellsExhausted(msg)
    return cells


def available_memory(told: Path = Path("/proc/meminfo")) -> int:
    """Bytes that can be had without swapping, files kept in memory included."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (line.split() for line in told.read_text().splitlines())
        return 1024 * int(next(words[1] for words in lines if words[0] == "MemAvailable:"))
    if not hasattr(os, "sysconf"):
        return UNKNOWN
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * page
    except ValueError:  # not known on every system: half of what there is
        return os.sysconf("SC_PHYS_PAGES") * page // 2
