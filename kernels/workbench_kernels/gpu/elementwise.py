"""What lies between a layer's products, one launch each: sums and the norm after them, gates."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.gpu import checks

MAX_SIZE = 1 << 16  # of a row that one program holds in registers
GATE_BLOCK = 1024


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of each row; arguments as ``add_norm``.

    Returns:
        ``[rows, size]`` in x's dtype.
    """
    return _norm(x, None, weight, eps)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x += delta``, and the norm of that: ``weight * x / sqrt(mean(x ** 2) + eps)``.

    Computed in float32, and rounded where transformers' modules round: the sum, the quotient, and
    the product.

    Args:
        x: ``[rows, size]``, contiguous, changed in place.
        delta: ``[rows, size]``, contiguous.
        weight: ``[size]``.
        eps: added to the mean square.

    Returns:
        ``[rows, size]`` in x's dtype.
    """
    return _norm(x, delta, weight, eps)


def gate(x: Tensor) -> Tensor:
    """``silu(a) * b`` of rows that hold a and then b; rounded in between as by transformers.

    Args:
        x: ``[rows, 2 * size]``, contiguous.

    Returns:
        ``[rows, size]`` in x's dtype.
    """
    checks.rows("x", x)
    rows, both = x.shape
    checks.expect(both % 2 == 0, "rows of two halves", f"{both} numbers")
    out = x.new_empty(rows, both // 2)
    if rows:
        with torch.cuda.device_of(x):
            gate_kernel[(rows, triton.cdiv(both // 2, GATE_BLOCK))](
                x, out, SIZE=both // 2, BLOCK=min(GATE_BLOCK, triton.next_power_of_2(both // 2)),
                num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return out


def _norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    checks.rows("x", x)
    rows, size = x.shape
    checks.expect(size <= MAX_SIZE, f"rows of at most {MAX_SIZE}", str(size))
    checks.expect(weight.shape == (size,) and weight.is_contiguous() and weight.device == x.device,
                  f"a weight [{size}] on {x.device}",
                  f"{list(weight.shape)} on {weight.device}")  # fmt: skip
    if delta is not None:
        checks.rows("delta", delta)
        checks.expect(delta.shape == x.shape and delta.dtype == x.dtype, "delta like x",
                      f"{delta.dtype} {list(delta.shape)}")  # fmt: skip
    out = torch.empty_like(x)
    if rows:
        with torch.cuda.device_of(x):
            norm_kernel[(rows,)](
                x, x if delta is None else delta, weight, out, eps, SIZE=size,
                BLOCK=triton.next_power_of_2(size), ADD=delta is not None,
                num_warps=8 if size > 2048 else 4, enable_fp_fusion=False,
            )  # fmt: skip
    return out


@triton.jit
def norm_kernel(
    x, delta, weight, out, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """One row: program ``(row,)``."""
    row = tl.program_id(0).to(tl.int64) * SIZE
    at = tl.arange(0, BLOCK)
    inside = at < SIZE
    here = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        here += tl.load(delta + row + at, mask=inside, other=0.0).to(tl.float32)
        rounded = here.to(x.dtype.element_ty)
        tl.store(x + row + at, rounded, mask=inside)
        here = rounded.to(tl.float32)
    factor = tl.rsqrt(tl.sum(here * here, 0) / SIZE + eps)
    unit = (here * factor).to(out.dtype.element_ty).to(tl.float32)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + at, (unit * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_kernel(x, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Part of one row: program ``(row, block)``."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    a = tl.load(x + row * 2 * SIZE + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * SIZE + SIZE + at, mask=inside, other=0.0).to(tl.float32)
    opened = (a / (1.0 + tl.exp(-a))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * SIZE + at, (opened * b).to(out.dtype.element_ty), mask=inside)
