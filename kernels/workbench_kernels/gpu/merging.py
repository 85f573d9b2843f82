"""Partial attentions of a row, put together by their log-sum-exp in the order of its cells."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 16  # partials one step of the loop reads: fixed, so that a row's sum has one order


def merge(
    part: Tensor,
    lse: Tensor,
    parts_at: Tensor,
    parts: Tensor,
    rows: int,
    *,
    sinks: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Combine attentions of the same rows over disjoint cells, as one softmax would give them.

    Args:
        part: float32 ``[slots, heads, dim]``, normalised partial outputs.
        lse: float32 ``[slots, heads]``, natural-log sums of exponentials; ``-inf`` where a row saw
            nothing, in which case its output is not read.
        parts_at: int32 ``[>= rows + 1]``: row ``r`` has ``parts[parts_at[r] : parts_at[r + 1]]``.
        parts: int32, slots row by row, in the order in which they are added up.
        rows: how many rows there are.
        sinks: float32 ``[heads]``; a part with this log-sum-exp and no value.
        dtype: of the result.

    Returns:
        ``[rows, heads, dim]``; zeros for rows without parts.
    """
    _, heads, dim = part.shape
    out = torch.empty(rows, heads, dim, dtype=dtype, device=part.device)
    if sinks is not None:
        sinks = sinks.float().contiguous()
    with torch.cuda.device_of(part):
        merge_kernel[(rows, heads)](
            part, lse, parts_at, parts, sinks if sinks is not None else lse, out,
            DIM=dim, BLOCK_D=triton.next_power_of_2(dim), BLOCK_P=PARTS,
            SINKS=sinks is not None, num_warps=1 if dim <= 64 else 2, enable_fp_fusion=False,
        )  # fmt: skip
    return out


@triton.jit
def merge_kernel(
    part, lse, parts_at, parts, sinks, out,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """One row and head: program ``(row, head)``."""
    row, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first, last = tl.load(parts_at + row), tl.load(parts_at + row + 1)
    dims = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_D], tl.float32)
    top = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    if SINKS:
        top = tl.load(sinks + head)
        total += 1.0
    for at in range(first, last, BLOCK_P):
        which = at + tl.arange(0, BLOCK_P)
        slot = tl.load(parts + which, mask=which < last, other=0).to(tl.int64) * heads + head
        weight = tl.load(lse + slot, mask=which < last, other=-float("inf"))  # [P]
        read = (weight != -float("inf"))[:, None] & (dims < DIM)[None]
        value = tl.load(part + slot[:, None] * DIM + dims[None], mask=read, other=0.0)  # [P, D]
        highest = tl.maximum(top, tl.max(weight, 0))
        base = tl.where(highest == -float("inf"), 0.0, highest)
        weight = tl.exp(weight - base)
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(weight, 0)
        acc = acc * shrink + tl.sum(weight[:, None] * value, 0)
        top = highest
    acc = acc / tl.where(total == 0, 1.0, total)
    at = (row.to(tl.int64) * heads + head) * DIM
    tl.store(out + at + dims, acc.to(out.dtype.element_ty), mask=dims < DIM)
