"""The compiled CPU kernels: loaded if the install could build them and the processor has them.

``available()`` says whether, ``reason()`` why not. Nothing changes silently with it: both paths are
tested against the same float64 reference, and ``workbench_kernels.active()`` names the one in use.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from workbench_kernels.tiles import TilePlan

MAX_DIM = 256
MAX_LINEAR_ROWS = 4
SPLIT = 2048  # cells of one unit of work: fixed, so that a sum does not depend on the batch


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("WORKBENCH_NATIVE") == "0":
        return None, "switched off by WORKBENCH_NATIVE=0"
    found = sorted(Path(__file__).parent.glob("_cpu*.so"))
    if not found:
        return None, "not built: the install found no C++ compiler for x86 with AVX512-BF16"
    try:
        library = ctypes.CDLL(str(found[0]), mode=os.RTLD_NOW)
    except OSError as error:
        return None, f"cannot be loaded: {error}"
    if not library.wb_supported():
        return None, "the processor has no AVX512-BF16"
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.wb_attend.argtypes = [
        pointer, pointer, pointer, pointer, pointer, integer, pointer, pointer, pointer, pointer,
        pointer, integer, integer, integer, integer, long, long, ctypes.c_float, pointer, long,
    ]  # fmt: skip
    library.wb_attend.restype = None
    library.wb_linear.argtypes = [pointer, pointer, pointer, pointer, integer, long, long]
    library.wb_linear.restype = None
    return library, ""


def available() -> bool:
    """Whether the compiled kernels are in use."""
    return _library()[0] is not None


def reason() -> str:
    """Why they are not; empty where they are."""
    return _library()[1]


def fits(q: Tensor, k: Tensor, v: Tensor, softcap: float | None) -> bool:
    """Whether ``attend`` can run this layer."""
    return (
        softcap is None
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.shape[-1] == v.shape[-1] <= MAX_DIM
        and q.shape[-1] % 32 == 0
        and k.stride() == v.stride()
        and k.stride()[1:] == (k.shape[-1], 1)
    )


class _Units:
    """A tile plan as the arrays the kernel reads; made once per step."""

    def __init__(self, plan: TilePlan) -> None:
        row_ids: list[int] = []
        units: list[int] = []
        parts: list[list[int]] = [[] for _ in plan.positions]
        self.unit_rows = 0
        for tile in plan.tiles:
            rows = [r for first, num in tile.rows for r in range(first, first + num)]
            at = len(row_ids)
            row_ids.extend(rows)
            for start in self._starts(tile.position, tile.length):
                end = min(tile.length, start + SPLIT - (tile.position + start) % SPLIT)
                units += [tile.start + start, end - start, tile.position + start, at, len(rows),
                          self.unit_rows]  # fmt: skip
                for i, row in enumerate(rows):
                    parts[row].append(self.unit_rows + i)
                self.unit_rows += len(rows)
        offsets = [0]
        for part in parts:
            offsets.append(offsets[-1] + len(part))

        def array(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32)

        self.units, self.num_units = array(units), len(units) // 6
        self.row_ids, self.positions = array(row_ids), array(list(plan.positions))
        self.parts_at, self.parts = array(offsets), array([i for part in parts for i in part])
        self.partial = torch.empty(0, dtype=torch.float32)

    @staticmethod
    def _starts(position: int, length: int) -> list[int]:
        first = -position % SPLIT
        return [0, *range(first or SPLIT, length, SPLIT)]


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: TilePlan, *, scale: float, sinks: Tensor | None = None
) -> Tensor:
    """Attention over a tile plan; arguments as ``cpu.attend``, bfloat16, ``fits`` holds."""
    library = _library()[0]
    assert library is not None
    units = plan.prepared.get("native")
    if units is None:
        units = plan.prepared["native"] = _Units(plan)
    rows, heads, dim = q.shape
    q = q.contiguous()
    out = torch.empty_like(q)
    needed = units.unit_rows * heads * (dim + 2)
    if units.partial.numel() < needed:
        units.partial = torch.empty(needed, dtype=torch.float32)
    sink = None if sinks is None else sinks.float().contiguous()
    library.wb_attend(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), units.units.data_ptr(),
        units.num_units, units.row_ids.data_ptr(), units.positions.data_ptr(),
        units.parts_at.data_ptr(), units.parts.data_ptr(), units.partial.data_ptr(), rows, heads,
        k.shape[0], dim, k.stride(0), plan.window or 0, scale,
        None if sink is None else sink.data_ptr(), units.unit_rows,
    )  # fmt: skip
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` for at most 4 rows of bfloat16; inner size a multiple of 32."""
    library = _library()[0]
    assert library is not None
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    outer, inner = weight.shape
    out = torch.empty(*x.shape[:-1], outer, dtype=x.dtype)
    library.wb_linear(
        rows.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(),
        out.data_ptr(), rows.shape[0], outer, inner,
    )  # fmt: skip
    return out
