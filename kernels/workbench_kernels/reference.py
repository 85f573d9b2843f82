"""Attention over a tile plan in float64, one row at a time: slow, and obvious enough to trust."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench_kernels.tiles import TilePlan


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: TilePlan,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Gather each row's visible cells, then one plain softmax; arguments as ``cpu.attend``."""
    num_rows, heads, _ = q.shape
    group = heads // k.shape[0]
    out = torch.zeros(num_rows, heads, v.shape[-1], dtype=torch.float64, device=q.device)
    for row, row_position in enumerate(plan.positions):
        cells = [
            tile.start + i
            for tile in plan.tiles
            if any(first <= row < first + num for first, num in tile.rows)
            for i in range(tile.length)
            if tile.position + i <= row_position
            and (plan.window is None or tile.position + i > row_position - plan.window)
        ]
        if not cells:
            continue
        keys = k[:, cells].double().repeat_interleave(group, 0)  # [heads, cells, dim]
        values = v[:, cells].double().repeat_interleave(group, 0)
        scores = torch.einsum("hd,hcd->hc", q[row].double(), keys) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if sinks is not None:
            scores = torch.cat([scores, sinks.double()[:, None]], dim=1)
        weights = torch.softmax(scores, dim=1)[:, : len(cells)]
        out[row] = torch.einsum("hc,hcd->hd", weights, values)
    return out
