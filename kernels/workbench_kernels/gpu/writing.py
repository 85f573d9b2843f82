"""K and V of a step into their cells: both in one launch, with the rotary embedding if wanted."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.gpu import checks


def write_cells(pool: Tensor, slots: Tensor, values: Tensor) -> None:
    """Store one token's K (or V) per slot; arguments as ``cpu.write_cells``.

    A negative slot writes nothing, so that a step can be padded.
    """
    _check(pool, slots, values)
    _write(pool, pool, slots, values, values, sides=1)


def write_kv(keys: Tensor, values: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Store each token's K and V in one launch.

    Args:
        keys: ``[kv_heads, cells, k_dim]``, changed in place.
        values: ``[kv_heads, cells, v_dim]``, changed in place.
        slots: int64 ``[tokens]``, the cell of each token; a negative one writes nothing.
        k: ``[tokens, kv_heads, k_dim]``.
        v: ``[tokens, kv_heads, v_dim]``.
    """
    _check(keys, slots, k)
    _check(values, slots, v)
    _write(keys, values, slots, k, v, sides=2)


def rotate_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Rotate q and k, store k and v, in one launch; ``x cos + rotate_half(x) sin`` in float32.

    Args:
        q: ``[tokens, heads, k_dim]``.
        k: ``[tokens, kv_heads, k_dim]``, before rotation.
        v: ``[tokens, kv_heads, v_dim]``.
        cos, sin: ``[tokens, rotary_dim]``; dimension i turns with i + rotary_dim / 2 (Llama's
            convention). Dimensions from ``rotary_dim`` on are left as they are.
        keys, values, slots: as for `write_kv`.
        norms: weights ``[k_dim]`` of the root-mean-square norms that each head of q and of k goes
            through before it turns, whole; None: neither does.
        eps: of the norms.

    Returns:
        Rotated q, ``[tokens, heads, k_dim]``.
    """
    _check(keys, slots, k)
    _check(values, slots, v)
    tokens, heads, dim = q.shape
    rotary = cos.shape[1]
    for weight in norms or ():
        checks.expect(weight.shape == (dim,) and weight.is_contiguous() and rotary == dim,
                      f"norms [{dim}] of heads that turn whole",
                      f"{list(weight.shape)}, {rotary} turn")  # fmt: skip
    checks.expect(cos.shape == sin.shape == (tokens, rotary) and rotary % 2 == 0 and rotary <= dim,
                  f"cos and sin [{tokens}, an even number up to {dim}]",
                  f"{list(cos.shape)} and {list(sin.shape)}")  # fmt: skip
    cos, sin = cos.contiguous(), sin.contiguous()
    q, k, v = (_packed(x) for x in (q, k, v))
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q_norm, k_norm = norms or (q, k)
    with torch.cuda.device_of(q):
        rotate_kernel[(tokens, 3)](
            q, k, v, cos, sin, out, keys, values, slots, q_norm, k_norm, eps,
            q.stride(0), k.stride(0), v.stride(0), keys.stride(0), values.stride(0),
            HEADS=heads, KV_HEADS=k.shape[1], K_DIM=dim, V_DIM=v.shape[2], ROTARY=rotary,
            BLOCK_Q=triton.next_power_of_2(heads), BLOCK_H=triton.next_power_of_2(k.shape[1]),
            BLOCK_R=triton.next_power_of_2(rotary // 2), BLOCK_K=triton.next_power_of_2(dim),
            BLOCK_V=triton.next_power_of_2(v.shape[2]), NORM=norms is not None,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _write(
    keys: Tensor, values: Tensor, slots: Tensor, k: Tensor, v: Tensor, *, sides: int
) -> None:
    k, v = _packed(k), _packed(v)
    with torch.cuda.device_of(keys):
        write_kernel[(len(slots), sides)](
            k, v, keys, values, slots, k.stride(0), v.stride(0), keys.stride(0), values.stride(0),
            KV_HEADS=k.shape[1], K_DIM=k.shape[2], V_DIM=v.shape[2],
            BLOCK_H=triton.next_power_of_2(k.shape[1]), BLOCK_K=triton.next_power_of_2(k.shape[2]),
            BLOCK_V=triton.next_power_of_2(v.shape[2]), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip


def _check(pool: Tensor, slots: Tensor, new: Tensor) -> None:
    checks.cells("the pool", pool)
    tokens, kv_heads, dim = slots.shape[0], pool.shape[0], pool.shape[2]
    checks.expect(slots.dtype == torch.int64 and slots.dim() == 1 and slots.stride(0) == 1,
                  "slots int64 [tokens]", f"{slots.dtype} {list(slots.shape)}")  # fmt: skip
    checks.expect(new.shape == (tokens, kv_heads, dim), f"[{tokens}, {kv_heads}, {dim}] to store",
                  str(list(new.shape)))  # fmt: skip
    checks.expect(pool.device == slots.device == new.device, "pool, slots and values on one device",
                  f"{pool.device}, {slots.device}, {new.device}")  # fmt: skip


def _packed(x: Tensor) -> Tensor:
    """``[tokens, heads, dim]`` with the heads of a token one after the other; a view if it is."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


@triton.jit
def write_kernel(
    k, v, keys, values, slots, k_token, v_token, keys_head, values_head,
    KV_HEADS: tl.constexpr, K_DIM: tl.constexpr, V_DIM: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One token's K or V: program ``(token, 0 for K or 1 for V)``."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        if tl.program_id(1) == 0:
            _copy(k + token * k_token, keys + slot * K_DIM, keys_head, 0,
                  KV_HEADS, K_DIM, BLOCK_H, BLOCK_K)  # fmt: skip
        else:
            _copy(v + token * v_token, values + slot * V_DIM, values_head, 0,
                  KV_HEADS, V_DIM, BLOCK_H, BLOCK_V)  # fmt: skip


@triton.jit
def rotate_kernel(
    q, k, v, cos, sin, out, keys, values, slots, q_norm, k_norm, eps,
    q_token, k_token, v_token, keys_head, values_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, K_DIM: tl.constexpr, V_DIM: tl.constexpr,
    ROTARY: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """One token's Q, K or V: program ``(token, 0 for K, 1 for V or 2 for Q)``."""
    token = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    slot = tl.load(slots + token)
    cos += token * ROTARY
    sin += token * ROTARY
    if which == 2:
        _rotate(q + token * q_token, out + token * HEADS * K_DIM, K_DIM, cos, sin, q_norm, eps,
                HEADS, K_DIM, ROTARY, BLOCK_Q, BLOCK_R, BLOCK_K, NORM)  # fmt: skip
    elif slot >= 0:
        if which == 0:
            _rotate(k + token * k_token, keys + slot * K_DIM, keys_head, cos, sin, k_norm, eps,
                    KV_HEADS, K_DIM, ROTARY, BLOCK_H, BLOCK_R, BLOCK_K, NORM)  # fmt: skip
        else:
            _copy(v + token * v_token, values + slot * V_DIM, values_head, 0,
                  KV_HEADS, V_DIM, BLOCK_H, BLOCK_V)  # fmt: skip


@triton.jit
def _rotate(
    source, target, target_head, cos, sin, weight, eps,
    HEADS: tl.constexpr, DIM: tl.constexpr, ROTARY: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """All heads of one token, half against half; what lies beyond the rotary part is copied."""
    half = tl.arange(0, BLOCK_R)
    inside = half < ROTARY // 2
    heads = tl.arange(0, BLOCK_H)
    mask = (heads < HEADS)[:, None] & inside[None]
    low, high = half[None], half[None] + ROTARY // 2
    at = source + heads[:, None] * DIM
    x1 = tl.load(at + low, mask=mask, other=0.0).to(tl.float32)  # [H, R]
    x2 = tl.load(at + high, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        factor = tl.rsqrt(tl.sum(x1 * x1 + x2 * x2, 1) / DIM + eps)[:, None]
        x1 = _scaled(x1 * factor, weight + low, inside, source)
        x2 = _scaled(x2 * factor, weight + high, inside, source)
    cos1 = tl.load(cos + low, mask=inside[None], other=0.0).to(tl.float32)
    cos2 = tl.load(cos + high, mask=inside[None], other=0.0).to(tl.float32)
    sin1 = tl.load(sin + low, mask=inside[None], other=0.0).to(tl.float32)
    sin2 = tl.load(sin + high, mask=inside[None], other=0.0).to(tl.float32)
    to = target + heads.to(tl.int64)[:, None] * target_head
    tl.store(to + low, (x1 * cos1 - x2 * sin1).to(target.dtype.element_ty), mask=mask)
    tl.store(to + high, (x2 * cos2 + x1 * sin2).to(target.dtype.element_ty), mask=mask)
    if ROTARY < DIM:
        _copy(source, target, target_head, ROTARY, HEADS, DIM, BLOCK_H, BLOCK)


@triton.jit
def _scaled(x, weight, inside, like):
    """Times a weight, rounded before and after, as transformers' norms are."""
    scale = tl.load(weight, mask=inside[None], other=0.0).to(tl.float32)
    x = x.to(like.dtype.element_ty).to(tl.float32) * scale
    return x.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def _copy(
    source, target, target_head, first,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dimensions ``first ..`` of all heads of one token."""
    heads, dims = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK)
    mask = (heads < HEADS)[:, None] & ((dims >= first) & (dims < DIM))[None]
    x = tl.load(source + heads[:, None] * DIM + dims[None], mask=mask, other=0.0)  # [H, D]
    to = target + heads.to(tl.int64)[:, None] * target_head + dims[None]
    tl.store(to, x.to(target.dtype.element_ty), mask=mask)
