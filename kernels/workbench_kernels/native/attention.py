"""Attention over a tile plan on the compiled kernels."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from workbench_kernels.native.library import Heads, Plan, load
from workbench_kernels.tiles import TilePlan

MAX_DIM = 256
SPLIT = 2048  # cells of one unit of work, from where a tile begins


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


class Units:
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
        self._partial = torch.empty(0, dtype=torch.float32)
        self.plan = Plan(
            self.units.data_ptr(), self.row_ids.data_ptr(), self.positions.data_ptr(),
            self.parts_at.data_ptr(), self.parts.data_ptr(), self.num_units, self.unit_rows,
            plan.window or 0,
        )  # fmt: skip

    @classmethod
    def of(cls, plan: TilePlan) -> Units:
        """Those of a plan."""
        if "native" not in plan.prepared:
            plan.prepared["native"] = cls(plan)
        units: Units = plan.prepared["native"]
        return units

    def partial(self, heads: int, dim: int) -> Tensor:
        """Room for partial results, float32; the next layer uses it again."""
        needed = self.unit_rows * heads * (dim + 2)
        if self._partial.numel() < needed:
            self._partial = torch.empty(needed, dtype=torch.float32)
        return self._partial

    @staticmethod
    def _starts(position: int, length: int) -> list[int]:
        first = -position % SPLIT
        return [0, *range(first or SPLIT, length, SPLIT)]


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: TilePlan, *, scale: float, sinks: Tensor | None = None
) -> Tensor:
    """Attention over a tile plan; arguments as ``cpu.attend``, bfloat16, ``fits`` holds."""
    library = load()[0]
    assert library is not None
    units = Units.of(plan)
    rows, heads, dim = q.shape
    if scale <= 0:  # the kernel takes the largest score before the scale
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    q = q.contiguous()
    out = torch.empty_like(q)
    sink = None if sinks is None else sinks.float().contiguous()
    layer = Heads(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(),
        units.partial(heads, dim).data_ptr(), None if sink is None else sink.data_ptr(),
        k.stride(0), rows, heads, k.shape[0], dim, scale,
    )  # fmt: skip
    library.wb_attend(ctypes.byref(units.plan), ctypes.byref(layer), torch.get_num_threads())
    return out
