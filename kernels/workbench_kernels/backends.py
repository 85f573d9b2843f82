"""Which kernels run: by the device of the tensors, named by `active`, never by falling back."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from workbench_kernels import cpu, native, reference, scores
from workbench_kernels.scores import Scores
from workbench_kernels.tiles import TilePlan


def active(device: str | torch.device = "cpu") -> str:
    """The backend that tensors on a device go to.

    ``"triton"`` on CUDA; on a CPU ``"cpu-native"`` where bfloat16 runs on the compiled kernels,
    but for layers they have no code for (`native.fits`), else ``"cpu"`` (``native.reason()`` says
    why). Raises ValueError for devices without kernels.
    """
    if _on_cuda(torch.device(device)):
        return "triton"
    return "cpu-native" if native.available() else "cpu"


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
    run = _gpu().attend if _on_cuda(q.device) else cpu.attend
    return run(q, k, v, plan, scale=scale, softcap=softcap, sinks=sinks)


def index_of(
    plan: TilePlan, *, group: int, dim: int, dtype: torch.dtype, device: torch.device, rows: int
) -> Any:
    """What ``attend`` reads of a plan on a GPU, as ``gpu.units.Index``: for graphs, which see it.

    Args:
        plan: the step's tiles.
        group: query heads per KV head.
        dim: the larger of the head dims of K and V.
        dtype, device: of q.
        rows: of q; more than the plan's where it is padded.
    """
    return _gpu().index_of(plan, group=group, dim=dim, dtype=dtype, device=device, rows=rows)


def write_cells(pool: Tensor, slots: Tensor, values: Tensor) -> None:
    """Store one token's K (or V) per slot.

    Args:
        pool: ``[kv_heads, cells, dim]``, changed in place.
        slots: int64 ``[tokens]``, the cell of each token.
        values: ``[tokens, kv_heads, dim]``.
    """
    run = _gpu().write_cells if _on_cuda(pool.device) else cpu.write_cells
    run(pool, slots, values)


def write_kv(keys: Tensor, values: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
    """Store each token's K and V: one launch on a GPU.

    Args:
        keys, values: the pools, ``[kv_heads, cells, dim]`` each, changed in place.
        slots: int64 ``[tokens]``, the cell of each token.
        k, v: ``[tokens, kv_heads, dim]`` each.
    """
    if _on_cuda(keys.device):
        _gpu().write_kv(keys, values, slots, k, v)
    else:
        cpu.write_cells(keys, slots, k)
        cpu.write_cells(values, slots, v)


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
    """Rotate q and k by position, store k and v: one launch on a GPU.

    Args:
        q: ``[tokens, heads, dim]``.
        k, v: ``[tokens, kv_heads, dim]`` each, k before rotation.
        cos, sin: ``[tokens, rotary_dim]`` in Llama's convention, see ``reference.rotate``.
        keys, values, slots: as for `write_kv`.
        norms: weights ``[dim]`` of root-mean-square norms of each head of q and of k before it
            turns, whole; None: none.
        eps: of the norms.

    Returns:
        Rotated q, ``[tokens, heads, dim]``.
    """
    if _on_cuda(q.device):
        return _gpu().rotate_and_write(q, k, v, cos, sin, keys, values, slots, norms, eps)
    if norms is not None:
        q, k = (reference.norm(x, w, eps) for x, w in zip((q, k), norms, strict=True))
    write_kv(keys, values, slots, reference.rotate(k, cos, sin), v)
    return reference.rotate(q, cos, sin)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of each row.

    Args:
        x: ``[rows, size]``, contiguous.
        weight: ``[size]``.
        eps: added to the mean square.

    Returns:
        ``[rows, size]`` in x's dtype.
    """
    return _gpu().norm(x, weight, eps) if _on_cuda(x.device) else reference.norm(x, weight, eps)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x += delta``, and the norm of that: one launch on a GPU; arguments as for `norm`."""
    if _on_cuda(x.device):
        return _gpu().add_norm(x, delta, weight, eps)
    return reference.norm(x.add_(delta), weight, eps)


def gate(x: Tensor) -> Tensor:
    """``silu(a) * b`` of rows ``[rows, 2 * size]`` that hold a and then b: ``[rows, size]``."""
    return _gpu().gate(x) if _on_cuda(x.device) else reference.gate(x)


def score(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """The likeliest token of each row and the log-probabilities of given ones, on the device.

    Args:
        logits: ``[rows, vocab]``.
        labels: int64 ``[rows, n]``, token ids to score after each row; negative ones are padding.
    """
    if _on_cuda(logits.device):
        return _gpu().score(logits, labels)
    fits = native.available() and native.scores_fit(logits)
    return (native.score if fits else scores.score)(logits, labels)


def _on_cuda(device: torch.device) -> bool:
    if device.type not in ("cpu", "cuda"):
        msg = f"expected tensors on cpu or cuda, which have kernels; got {device.type}"
        raise ValueError(msg)
    return device.type == "cuda"


def _gpu() -> ModuleType:
    """The Triton kernels, imported when first used: machines without a GPU need no triton."""
    try:
        return importlib.import_module("workbench_kernels.gpu")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        msg = "CUDA tensors need triton>=3.6, which is not installed: pip install 'triton>=3.6'"
        raise RuntimeError(msg) from error
