"""What the Triton kernels take, checked where a caller can still be told what to change."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DIM = 256
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def layer(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless ``attend`` can run a layer of these tensors."""
    expect(q.dtype in DTYPES and q.dtype == k.dtype == v.dtype, "q, k and v of one dtype out of "
           "bfloat16, float16 and float32", f"{q.dtype}, {k.dtype}, {v.dtype}")  # fmt: skip
    expect(q.device == k.device == v.device, "q, k and v on one device",
           f"{q.device}, {k.device}, {v.device}")  # fmt: skip
    expect(k.shape[:2] == v.shape[:2] and k.shape[2] == q.shape[2],
           "q [rows, heads, k_dim], k [kv_heads, cells, k_dim], v [kv_heads, cells, v_dim]",
           f"{list(q.shape)}, {list(k.shape)}, {list(v.shape)}")  # fmt: skip
    expect(q.shape[1] % k.shape[0] == 0, "query heads a multiple of the KV heads",
           f"{q.shape[1]} and {k.shape[0]}")  # fmt: skip
    expect(max(k.shape[2], v.shape[2]) <= MAX_DIM, f"head dims of at most {MAX_DIM}",
           f"{k.shape[2]} and {v.shape[2]}")  # fmt: skip
    expect(q.stride(2) == 1, "q contiguous along its last axis", f"strides {q.stride()}")
    for name, pool in (("k", k), ("v", v)):
        cells(name, pool)


def cells(name: str, pool: Tensor) -> None:
    """Raise ValueError unless a pool's heads are contiguous and can be indexed with 32 bits."""
    dim = pool.shape[2]
    expect(pool.stride()[1:] == (dim, 1), f"{name} with each head's cells one after the other",
           f"strides {pool.stride()} for shape {list(pool.shape)}")  # fmt: skip
    expect(pool.shape[1] * dim < 2**31, f"fewer than 2**31 elements per head of {name}",
           f"{pool.shape[1]} cells of {dim}")  # fmt: skip


def rows(name: str, x: Tensor) -> None:
    """Raise ValueError unless ``x`` is ``[rows, size]``, contiguous, of a dtype we compute."""
    expect(x.dim() == 2 and x.is_contiguous() and x.dtype in DTYPES, f"{name} [rows, size], "
           "contiguous, of bfloat16, float16 or float32",
           f"{x.dtype} {list(x.shape)}, strides {x.stride()}")  # fmt: skip


def expect(ok: bool, expected: str, got: str) -> None:
    """Raise ValueError with both sides unless ``ok``."""
    if not ok:
        msg = f"expected {expected}; got {got}"
        raise ValueError(msg)
