"""Products with packed weights: each is read from memory once for all rows.

Packed, weights ``[outer, inner]`` are panels of `COLUMNS` columns, ``[panels, inner / 2, 2, 16,
2]``: a vector of the kernel holds two numbers of each of 16 columns, so that sums need no adding up
over its lanes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench_kernels.native.library import load

COLUMNS = 32
INNER = 32  # what the inner size is a multiple of


def packed_shape(outer: int, inner: int) -> tuple[int, ...]:
    """Shape of packed weights ``[outer, inner]``."""
    return -(-outer // COLUMNS), inner // 2, COLUMNS // 16, 16, 2


def pack(weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Pack bfloat16 weights, which are read once.

    Args:
        weight: ``[outer, inner]``; ``inner`` is a multiple of `INNER`.
        out: where to, of `packed_shape`; None makes it.
    """
    library = load()[0]
    assert library is not None
    outer, inner = weight.shape
    if weight.dtype != torch.bfloat16 or inner % INNER:
        msg = f"expected bfloat16 and rows in multiples of {INNER}, got {weight.dtype} and {inner}"
        raise ValueError(msg)
    if out is None:
        out = torch.empty(packed_shape(outer, inner), dtype=weight.dtype)
    weight = weight.detach().contiguous()
    threads = torch.get_num_threads()
    library.wb_pack(weight.data_ptr(), outer, inner, out.data_ptr(), threads)
    return out


def unpack(packed: Tensor, outer: int) -> Tensor:
    """The weights ``[outer, inner]`` again, as a copy."""
    return packed.permute(0, 2, 3, 1, 4).reshape(-1, 2 * packed.shape[1])[:outer]


def linear(x: Tensor, packed: Tensor, bias: Tensor | None, outer: int) -> Tensor:
    """``x @ weight.T + bias`` in bfloat16; a row's result does not depend on the rows beside it.

    Args:
        x: ``[..., inner]``.
        packed: of weights ``[outer, inner]``.
        bias: ``[outer]`` or None.
        outer: columns of the result.
    """
    library = load()[0]
    assert library is not None
    inner = x.shape[-1]
    rows = x.reshape(-1, inner).contiguous()
    out = torch.empty(*x.shape[:-1], outer, dtype=x.dtype)
    library.wb_linear(
        rows.data_ptr(), packed.data_ptr(), None if bias is None else bias.data_ptr(),
        out.data_ptr(), len(rows), outer, inner, torch.get_num_threads(),
    )  # fmt: skip
    return out
