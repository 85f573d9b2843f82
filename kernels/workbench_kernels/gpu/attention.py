"""Attention of ragged query rows over runs of cells, in Triton: a unit per program, then a merge.

A program streams one stretch of cells past one block of packed rows and leaves a normalised partial
output with its log-sum-exp; `merging` puts a row's partials together. Which row meets which cells
is decided by `parts` and laid out by `units`.

What one row computes is the same bit for bit whoever shares its block: hidden cells take weight 0
exactly, a block of hidden cells changes nothing, and no multiplication is contracted with an
addition (``enable_fp_fusion=False``), so that the paths with and without masks round alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels import tuning
from workbench_kernels.gpu import checks, units
from workbench_kernels.gpu.merging import merge
from workbench_kernels.tiles import TilePlan

LOG2_E = 1.4426950408889634


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: TilePlan,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    sizes: tuning.Sizes | None = None,
) -> Tensor:
    """Attention over a tile plan; arguments as ``cpu.attend``, all tensors on one device.

    Args:
        q: ``[rows, heads, k_dim]``, the last axis contiguous; may have more rows than the plan,
            which then come out as zeros.
        k: ``[kv_heads, cells, k_dim]``, each head's cells one after the other.
        v: ``[kv_heads, cells, v_dim]``, likewise.
        plan: the step's tiles.
        scale: factor on the scores.
        softcap: if set, scores become ``softcap * tanh(score / softcap)``.
        sinks: float ``[heads]``; a score per head that takes weight and gives no value.
        sizes: tile sizes other than those `tuning` has for the device.

    Returns:
        ``[rows, heads, v_dim]`` in q's dtype.
    """
    checks.layer(q, k, v)
    rows, heads, k_dim = q.shape
    kv_heads, _, v_dim = v.shape
    sizes = sizes or tuning.sizes(q.device, q.dtype, max(k_dim, v_dim))
    index = units.of(plan, heads // kv_heads, sizes, q.device, rows)
    part = torch.empty(index.shape.slots, heads, v_dim, dtype=torch.float32, device=q.device)
    lse = torch.empty(index.shape.slots, heads, dtype=torch.float32, device=q.device)
    if softcap is None:
        factor, cap = scale * LOG2_E, 0.0
    else:
        factor, cap = 2 * LOG2_E * scale / softcap, softcap * LOG2_E
    with torch.cuda.device_of(q):
        for block, table in zip(sizes.blocks, index.tables, strict=True):
            if not len(table):
                continue
            attend_kernel[(len(table), kv_heads)](
                q, k, v, part, lse, table, index.row_ids, index.positions,
                factor, cap, heads // kv_heads, plan.window or 0,
                q.stride(0), q.stride(1), k.stride(0), v.stride(0),
                K_DIM=k_dim, V_DIM=v_dim, BLOCK_M=block.rows, BLOCK_N=sizes.cells,
                BLOCK_K=padded(k_dim), BLOCK_V=padded(v_dim),
                CAPPED=softcap is not None, WINDOWED=plan.window is not None,
                FIELDS=units.FIELDS, UP=triton.knobs.runtime.interpret,
                num_warps=block.warps, num_stages=block.stages, enable_fp_fusion=False,
            )  # fmt: skip
    return merge(part, lse, index.parts_at, index.parts, rows, sinks=sinks, dtype=q.dtype)


def index_of(
    plan: TilePlan, *, group: int, dim: int, dtype: torch.dtype, device: torch.device, rows: int
) -> units.Index:
    """What `attend` reads of a plan, made before it is called; for who captures it in a graph.

    Args:
        plan: the step's tiles.
        group: query heads per KV head.
        dim: the larger of the head dims of K and V.
        dtype, device: of q.
        rows: of q.
    """
    return units.of(plan, group, tuning.sizes(device, dtype, dim), device, rows)


def padded(dim: int) -> int:
    """A head dim as the kernel holds it: a power of two that a matrix instruction takes."""
    return max(16, int(triton.next_power_of_2(dim)))


@triton.jit
def attend_kernel(
    q, k, v, part, lse, table, row_ids, positions,
    factor, cap, group, window, q_row, q_head, k_head, v_head,
    K_DIM: tl.constexpr, V_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    FIELDS: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """One unit for one KV head: program ``(unit, kv_head)``; `units.Unit` names the fields."""
    unit = table + tl.program_id(0) * FIELDS
    num_rows = tl.load(unit + 1)
    if num_rows == 0:  # padding of the grid
        return
    kv_head = tl.program_id(1)
    heads = tl.num_programs(1) * group
    k += kv_head.to(tl.int64) * k_head
    v += kv_head.to(tl.int64) * v_head

    # The heads of a group are packed as rows, row-major in (row, head).
    packed = tl.load(unit + 2) + tl.arange(0, BLOCK_M)
    listed = packed // group
    there = listed < num_rows
    row = tl.load(row_ids + tl.load(unit) + listed, mask=there, other=0)
    head = kv_head * group + packed % group
    position = tl.load(positions + row, mask=there, other=-1)
    dims = tl.arange(0, BLOCK_K)
    at = row.to(tl.int64) * q_row + head * q_head
    query = tl.load(
        q + at[:, None] + dims[None], mask=there[:, None] & (dims < K_DIM)[None], other=0.0
    )  # [M, K]
    if UP:
        query = query.to(tl.float32)

    start, clear, end = tl.load(unit + 4), tl.load(unit + 5), tl.load(unit + 6)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    total = tl.zeros([BLOCK_M, 16], tl.float32)  # 16 equal columns
    top = tl.full([BLOCK_M], -float("inf"), tl.float32)
    acc, total, top = _stream(
        query, k, v, unit, position, start, clear, acc, total, top, factor, cap, window,
        K_DIM, V_DIM, BLOCK_N, BLOCK_K, BLOCK_V, CAPPED, WINDOWED, False, UP,
    )  # fmt: skip
    acc, total, top = _stream(
        query, k, v, unit, position, clear, end, acc, total, top, factor, cap, window,
        K_DIM, V_DIM, BLOCK_N, BLOCK_K, BLOCK_V, CAPPED, WINDOWED, True, UP,
    )  # fmt: skip

    total = tl.max(total, 1)
    total = tl.where(total == 0, 1.0, total)  # a row that saw nothing has top = -inf, and keeps it
    acc = acc / total[:, None]
    slot = (tl.load(unit + 3) + listed).to(tl.int64) * heads + head
    dims = tl.arange(0, BLOCK_V)
    tl.store(
        part + slot[:, None] * V_DIM + dims[None], acc,
        mask=there[:, None] & (dims < V_DIM)[None],
    )  # fmt: skip
    # From base 2 to natural.
    tl.store(lse + slot, (top + tl.log2(total)) * 0.6931471805599453, mask=there)


@triton.jit
def _stream(
    query, k, v, unit, row_position, start, end, acc, total, top, factor, cap, window,
    K_DIM: tl.constexpr, V_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, MASKED: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    """Online softmax over positions ``start .. end``; unmasked where every row sees every one."""
    offset0 = tl.load(unit + 7)
    if MASKED:
        cut1, offset1 = tl.load(unit + 8), tl.load(unit + 9)
        cut2, offset2 = tl.load(unit + 10), tl.load(unit + 11)
        cut3, offset3 = tl.load(unit + 12), tl.load(unit + 13)
    for first in range(start, end, BLOCK_N):
        position = first + tl.arange(0, BLOCK_N)
        cell = position + offset0
        if MASKED:
            cell = tl.where(position >= cut1, position + offset1, cell)
            cell = tl.where(position >= cut2, position + offset2, cell)
            cell = tl.where(position >= cut3, position + offset3, cell)
        written = (cell >= 0) & (position < end)
        keys = _load_cells(k, cell, written, K_DIM, BLOCK_K, MASKED, UP)  # [N, K]
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * factor  # [M, N]
        if CAPPED:
            # cap * tanh(x), with exp2(2 x log2 e) at hand: the factor has it all.
            scores = cap * (1.0 - 2.0 / (1.0 + tl.exp2(scores)))
        if MASKED:
            seen = written[None] & (position[None] <= row_position[:, None])
            if WINDOWED:
                seen &= position[None] > row_position[:, None] - window
            scores = tl.where(seen, scores, -float("inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        base = highest
        if MASKED:  # a row that has seen nothing yet: exp2(-inf - -inf) would be NaN
            base = tl.where(highest == -float("inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        top = highest
        weights = weights.to(query.dtype)
        # The sum as a product, too: its order then is that of the matrix instruction, not that of
        # a layout over threads, which changes with the size of the block.
        ones = tl.full([BLOCK_N, 16], 1.0, query.dtype)
        total = tl.dot(weights, ones, total * shrink[:, None], input_precision="ieee")
        values = _load_cells(v, cell, written, V_DIM, BLOCK_V, MASKED, UP)  # [N, V]
        acc = tl.dot(weights, values, acc * shrink[:, None], input_precision="ieee")
    return acc, total, top


@triton.jit
def _load_cells(
    pool, cell, written, DIM: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    """K or V of some cells; zeros where none is written, whatever the memory there holds."""
    dims = tl.arange(0, BLOCK)
    at = pool + cell[:, None] * DIM + dims[None]
    if MASKED:
        rows = tl.load(at, mask=written[:, None] & (dims < DIM)[None], other=0.0)
    elif DIM == BLOCK:
        rows = tl.load(at)
    else:
        rows = tl.load(at, mask=(dims < DIM)[None], other=0.0)
    if UP:  # the interpreter multiplies bfloat16 wrongly
        rows = rows.to(tl.float32)
    return rows
