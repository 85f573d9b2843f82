"""The tile plan on a CPU: torch's attention per tile, with its log-sum-exp, merged exactly.

bfloat16 goes to the compiled kernels of `native` where the install could build them.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from workbench_kernels import native
from workbench_kernels.merge import merge
from workbench_kernels.tiles import Tile, TilePlan

# Cells per step of the plain path: its scores stay in a core's cache. Fewer need no cut either.
BLOCK = 1024


def write_cells(pool: Tensor, slots: Tensor, values: Tensor) -> None:
    """Store one token's K (or V) per slot.

    Args:
        pool: ``[kv_heads, cells, dim]``, changed in place.
        slots: int64 ``[tokens]``, the cell of each token.
        values: ``[tokens, kv_heads, dim]``.
    """
    pool.index_copy_(1, slots, values.transpose(0, 1).to(pool.dtype))


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
    """Attention of ragged query rows over runs of cells.

    Args:
        q: ``[rows, heads, dim]``; ``heads`` is a multiple of ``kv_heads`` (GQA).
        k: ``[kv_heads, cells, dim]``, the pool; every planned cell must have been written.
        v: ``[kv_heads, cells, value_dim]``.
        plan: the step's tiles.
        scale: factor on the scores.
        softcap: if set, scores become ``softcap * tanh(score / softcap)``.
        sinks: float ``[heads]``; a score per head that takes weight and gives no value.

    Returns:
        ``[rows, heads, value_dim]`` in q's dtype.
    """
    if native.available() and native.fits(q, k, v, softcap):
        return native.attend(q, k, v, plan, scale=scale, sinks=sinks)
    return attend_by_tile(q, k, v, plan, scale=scale, softcap=softcap, sinks=sinks)


def attend_by_tile(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: TilePlan,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """`attend` on torch's kernels alone, tile by tile: any dtype, any layer."""
    rows, heads, dim = q.shape
    kv_heads, value_dim = k.shape[0], v.shape[-1]
    group = heads // kv_heads
    packed = q.view(rows, kv_heads, group, dim)
    prepared = _prepare(plan, group, q.dtype)
    single = len(prepared) == 1 and plan.tiles[0].rows == ((0, rows),)
    out = lse = None
    if not single or sinks is not None:
        out = torch.zeros(rows, kv_heads, group, value_dim, dtype=torch.float32)
        lse = torch.full((rows, kv_heads, group), -torch.inf, dtype=torch.float32)
    for tile in prepared:
        picked = packed[tile.rows]
        part_q = picked.transpose(0, 1).reshape(kv_heads, -1, dim)  # rows of a group side by side
        keys, values = k[:, tile.start : tile.end], v[:, tile.start : tile.end]
        if softcap is None and dim == value_dim:
            part, part_lse = _sdpa(part_q, keys, values, tile, scale)
        else:
            part, part_lse = _plain(part_q, keys, values, tile, scale, softcap)
        part = part.view(kv_heads, -1, group, value_dim).transpose(0, 1)
        if out is None or lse is None:
            return part.reshape(rows, heads, value_dim).to(q.dtype)
        part_lse = part_lse.view(kv_heads, -1, group).transpose(0, 1)
        out[tile.rows], lse[tile.rows] = merge(out[tile.rows], lse[tile.rows], part, part_lse)
    assert out is not None and lse is not None
    if sinks is not None:
        # A sink is a key with no value: it only scales what the real keys gave.
        sink = sinks.view(kv_heads, group).float()
        out = out * torch.sigmoid(lse - sink).unsqueeze(-1)
    return out.view(rows, heads, value_dim).to(q.dtype)


class _Prepared(NamedTuple):
    """A tile as tensors: which rows, which cells, and what is hidden from whom."""

    rows: slice | Tensor
    start: int
    end: int
    bias: Tensor | None  # [rows * group, cells]: 0 where seen, -inf where hidden
    blind: Tensor | None  # bool [rows * group]: rows that see no cell at all


def _prepare(plan: TilePlan, group: int, dtype: torch.dtype) -> list[_Prepared]:
    """Index tensors and masks, made once per step and read by every layer."""
    key = ("cpu", group, dtype)
    if key not in plan.prepared:
        tiles = [part for tile in plan.tiles for part in _parts(tile, plan)]
        plan.prepared[key] = [_prepare_tile(tile, plan, group, dtype) for tile in tiles]
    return plan.prepared[key]


def _parts(tile: Tile, plan: TilePlan) -> list[Tile]:
    """A masked tile, cut where all of its rows see everything: a mask is as large as what it masks.

    What is left are a step's own cells, and those at the edge of a window.
    """
    if not tile.masked:
        return [tile]
    rows = [p for first, num in tile.rows for p in plan.positions[first : first + num]]
    begin, end = tile.position, tile.position + tile.length
    since = begin if plan.window is None else max(begin, max(rows) + 1 - plan.window)
    until = min(end, min(rows) + 1)
    if until - since < BLOCK:
        return [tile]
    return [
        Tile(tile.rows, tile.start + a - begin, b - a, a, (a, b) != (since, until))
        for a, b in itertools.pairwise((begin, since, until, end))
        if b > a
    ]


def _prepare_tile(tile: Tile, plan: TilePlan, group: int, dtype: torch.dtype) -> _Prepared:
    first, num = tile.rows[0]
    rows: slice | Tensor = slice(first, first + num)
    if len(tile.rows) > 1:
        rows = torch.cat([torch.arange(first, first + num) for first, num in tile.rows])
    end = tile.start + tile.length
    if not tile.masked:
        return _Prepared(rows, tile.start, end, None, None)
    row = torch.tensor(plan.positions)[rows].repeat_interleave(group)[:, None]
    cell = torch.arange(tile.position, tile.position + tile.length)[None]
    seen = cell <= row
    if plan.window is not None:
        seen &= cell > row - plan.window
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    blind = ~seen.any(dim=1)
    return _Prepared(rows, tile.start, end, bias, blind if bool(blind.any()) else None)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, tile: _Prepared, scale: float) -> tuple[Tensor, Tensor]:
    """Float output ``[kv_heads, rows, dim]`` and log-sum-exp ``[kv_heads, rows]``."""
    bias = None if tile.bias is None else tile.bias[None, None]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], 0.0, False, attn_mask=bias, scale=scale
    )
    return _drop_blind(out[0].float(), lse[0].float(), tile.blind)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, tile: _Prepared, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The same in separate float32 steps, for what torch's kernel has no argument for."""
    query = q.float() * scale
    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=torch.float32)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float32)
    for start in range(0, k.shape[1], BLOCK):
        end = start + BLOCK
        scores = query @ k[:, start:end].float().transpose(1, 2)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        blind = None
        if tile.bias is not None:
            hidden = tile.bias[:, start:end] < 0
            scores = scores.masked_fill(hidden, -torch.inf)
            blind = hidden.all(dim=1)
        part_lse = torch.logsumexp(scores, dim=-1)
        part = torch.softmax(scores, dim=-1) @ v[:, start:end].float()
        out, lse = merge(out, lse, *_drop_blind(part, part_lse, blind))
    return out, lse


def _drop_blind(out: Tensor, lse: Tensor, blind: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows that see no cell of a tile get weight zero; their softmax is 0/0."""
    if blind is None:
        return out, lse
    return out.masked_fill(blind[:, None], 0.0), lse.masked_fill(blind, -torch.inf)
