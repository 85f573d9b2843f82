"""Attention of others over one shared context: torch's SDPA, flex_attention, FlashAttention.

Each gets the context as an expanded view (nothing is copied for it), no mask, and none of the
branches' own tails; it reads the same bytes where it can.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MOST_SHAPES = 256  # that flex_attention is compiled for

Call = Callable[[], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Call:
    """torch's scaled_dot_product_attention.

    Args:
        q: ``[branches, heads, rows, dim]``.
        k, v: ``[branches, kv_heads, cells, dim]``.
        scale: factor on the scores.

    Returns:
        What to time; it gives ``[branches, heads, rows, dim]``.
    """
    return partial(scaled_dot_product_attention, q, k, v, scale=scale, enable_gqa=True)


def flex(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Call:
    """torch's flex_attention, compiled on a GPU; arguments as for `sdpa`."""
    return partial(_flex(q.is_cuda), q, k, v, scale=scale, enable_gqa=True)


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Call:
    """FlashAttention for a cache, which it splits for short questions; arguments as for `sdpa`.

    Raises:
        ModuleNotFoundError: the package flash-attn is not installed.
    """
    attend: Any = importlib.import_module("flash_attn").flash_attn_with_kvcache
    tokens_first = [x.transpose(1, 2) for x in (q, k, v)]
    return lambda: attend(*tokens_first, softmax_scale=scale).transpose(1, 2)


PEERS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Call]] = {
    "SDPA": sdpa, "flex": flex, "flash": flash,
}  # fmt: skip


@cache
def _flex(compiled: bool) -> Any:
    # Each shape is compiled; beyond so many, torch would run it unfused without a word.
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    attend: Any = importlib.import_module("torch.nn.attention.flex_attention").flex_attention
    return torch.compile(attend, dynamic=False) if compiled else attend
