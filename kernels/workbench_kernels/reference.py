"""The kernels in float64, one row at a time: slow, and obvious enough to trust."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench_kernels.tiles import SliceRows, TilePlan


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


def attend_slices(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slices: Sequence[SliceRows],
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """The same from slices instead of a plan, all rows of one at a time: for long contexts.

    Args:
        q, k, v: as for `attend`.
        slices: what the plan would be made of.
        scale: factor on the scores.
        window: sliding window in positions, or None.

    Returns:
        float64 ``[rows, heads, value_dim]``.
    """
    group = q.shape[1] // k.shape[0]
    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=torch.float64, device=q.device)
    for item in slices:
        spans = [torch.arange(run.start, run.start + run.length) for run in item.runs]
        places = [torch.arange(run.position, run.position + run.length) for run in item.runs]
        cells, place = torch.cat(spans).to(q.device), torch.cat(places).to(q.device)
        row = item.position + torch.arange(item.num_rows, device=q.device)[:, None]
        hidden = place > row
        if window is not None:
            hidden |= place <= row - window
        here = slice(item.first_row, item.first_row + item.num_rows)
        for head in range(q.shape[1]):
            keys, values = k[head // group, cells].double(), v[head // group, cells].double()
            scores = q[here, head].double() @ keys.T * scale
            weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=1)
            out[here, head] = weights @ values
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Llama's convention: dimension i turns with i + rotary_dim / 2.

    Args:
        x: ``[tokens, heads, dim]``.
        cos, sin: ``[tokens, rotary_dim]``; dimensions from ``rotary_dim`` on stay as they are.

    Returns:
        ``[tokens, heads, dim]`` in x's dtype, rounded once.
    """
    rotary = cos.shape[1]
    turned = x[..., :rotary].double()
    low, high = turned.chunk(2, dim=-1)
    crossed = torch.cat([-high, low], dim=-1)
    turned = turned * cos.double()[:, None] + crossed * sin.double()[:, None]
    return torch.cat([turned.to(x.dtype), x[..., rotary:]], dim=-1)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x ** 2) + eps)`` over the last axis, in x's dtype, rounded once."""
    exact = x.double()
    unit = exact / torch.sqrt(exact.square().mean(-1, keepdim=True) + eps)
    return (weight.double() * unit).to(x.dtype)


def gate(x: Tensor) -> Tensor:
    """``silu(a) * b`` of rows that hold a and then b, in x's dtype, rounded once."""
    a, b = x.double().chunk(2, dim=-1)
    return (a * torch.sigmoid(a) * b).to(x.dtype)
