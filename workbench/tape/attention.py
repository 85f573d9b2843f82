"""Attention of a context and the questions that branch off it, as the engine asks them.

The context is read causally. Branches lie behind it in groups of `GROUP` tokens, earliest first;
each group is one product with the context that its branches may see and with itself. Under
autocast everything is bfloat16, in blocks of queries, two to three times as fast on a CPU as
torch's own attention; in float32 it is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

GROUP = 128  # tokens of branches that share one attention call
BLOCK = 128  # queries of the context that do
BLIND = -30_000.0  # added to the score of what may not be seen


def branching_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    ends: tuple[int, ...],
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention as `Batch` lays tokens out, in the form transformers asks for.

    ``query`` is [batch, heads, tokens, dim], ``attention_mask`` [batch, 1, branch tokens, context +
    GROUP], true where a branch token may read the context or its own group.
    """
    if torch.is_autocast_enabled(query.device.type):
        shared = key.shape[1]
        query = (query * scaling).to(torch.bfloat16).unflatten(1, (shared, -1))
        made = _Blocks.apply(
            query, key.to(torch.bfloat16), value.to(torch.bfloat16), attention_mask, ends
        )
        return made.flatten(1, 2).transpose(1, 2), None
    context = query.shape[2] - attention_mask.shape[2]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, scale=scaling, enable_gqa=k.shape[1] != q.shape[1], **how
        )

    out = [attend(*(x[:, :, :context] for x in (query, key, value)), is_causal=True)]
    for group, end in enumerate(ends):
        begin = context + group * GROUP
        own = slice(begin, begin + GROUP)
        rows = attention_mask[:, :, begin - context : begin - context + GROUP]
        out.append(
            attend(
                query[:, :, own],
                torch.cat([key[:, :, :end], key[:, :, own]], dim=2),
                torch.cat([value[:, :, :end], value[:, :, own]], dim=2),
                attn_mask=torch.cat([rows[..., :end], rows[..., context:]], dim=3),
            )
        )
    return torch.cat(out, dim=2).transpose(1, 2), None


class _Blocks(torch.autograd.Function):
    """The same in bfloat16; heads that share a key are rows of one product.

    Written out with its gradient, since slices of keys otherwise each cost a tensor of zeros.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        ends: tuple[int, ...],
    ) -> torch.Tensor:
        """``query`` [batch, kv heads, heads that share one, tokens, dim], scaled; the result has
        its shape."""
        out = torch.empty_like(query)
        kept = []
        for rows, end, own, blind in _parts(query.shape[3], mask, ends):
            q = query[:, :, :, rows]
            scores = torch.matmul(q.flatten(2, 3), _keys(key, end, own).transpose(2, 3))
            by_head = scores.unflatten(2, q.shape[2:4])
            by_head[..., -blind.shape[-1] :].add_(blind)
            weights = torch.softmax(scores, dim=-1)
            made = torch.matmul(weights, _keys(value, end, own))
            out[:, :, :, rows] = made.unflatten(2, q.shape[2:4])
            kept.append(weights)
        ctx.save_for_backward(query, key, value, mask, *kept)
        ctx.ends = ends
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key and value."""
        query, key, value, mask, *kept = ctx.saved_tensors
        to_query = torch.empty_like(query)
        to_key = torch.zeros(key.shape, device=key.device)
        to_value = torch.zeros(key.shape, device=key.device)
        parts = _parts(query.shape[3], mask, ctx.ends)
        for weights, (rows, end, own, _) in zip(kept, parts, strict=True):
            shape = query.shape[2], rows.stop - rows.start
            g = grad[:, :, :, rows].flatten(2, 3)
            back = torch.matmul(g, _keys(value, end, own).transpose(2, 3))
            back = torch._softmax_backward_data(back, weights, -1, weights.dtype)
            made = torch.matmul(back, _keys(key, end, own)).unflatten(2, shape)
            to_query[:, :, :, rows] = made
            q = query[:, :, :, rows].flatten(2, 3)
            for total, part in (
                (to_key, torch.matmul(back.transpose(2, 3), q)),
                (to_value, torch.matmul(weights.transpose(2, 3), g)),
            ):
                total[:, :, :end] += part[:, :, :end]
                if own is not None:
                    total[:, :, own] += part[:, :, end:]
        return to_query, to_key.to(key.dtype), to_value.to(key.dtype), None, None


def _parts(
    tokens: int, mask: torch.Tensor, ends: tuple[int, ...]
) -> Iterator[tuple[slice, int, slice | None, torch.Tensor]]:
    """Queries that go together, how much of the context they see, their group, what is hidden."""
    context = tokens - mask.shape[2]
    later = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=mask.device).triu(1) * BLIND
    later = later.to(torch.bfloat16)
    for begin in range(0, context, BLOCK):
        end = min(begin + BLOCK, context)
        yield slice(begin, end), end, None, later[: end - begin, : end - begin]
    for group, end in enumerate(ends):
        begin = group * GROUP
        may = mask[:, :, begin : begin + GROUP]
        seen = torch.cat([may[..., :end], may[..., context:]], dim=3)
        own = slice(context + begin, context + begin + GROUP)
        yield own, end, own, ((~seen).to(torch.bfloat16) * BLIND)[:, :, None]


def _keys(of: torch.Tensor, end: int, own: slice | None) -> torch.Tensor:
    """Keys or values of the first ``end`` tokens, and of a group."""
    return of[:, :, :end] if own is None else torch.cat([of[:, :, :end], of[:, :, own]], dim=2)


AttentionInterface.register("branching", branching_attention)
AttentionMaskInterface.register("branching", lambda *_, attention_mask=None, **__: attention_mask)
