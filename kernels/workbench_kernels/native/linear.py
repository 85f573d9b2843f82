"""Products of few rows: each weight is read from memory once."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench_kernels.native.library import load

MAX_ROWS = 128


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` in bfloat16.

    Args:
        x: ``[..., inner]``, at most `MAX_ROWS` rows; ``inner`` is a multiple of 32.
        weight: ``[outer, inner]``, contiguous.
        bias: ``[outer]`` or None.
    """
    library = load()[0]
    assert library is not None
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    outer, inner = weight.shape
    out = torch.empty(*x.shape[:-1], outer, dtype=x.dtype)
    library.wb_linear(
        rows.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(),
        out.data_ptr(), rows.shape[0], outer, inner, torch.get_num_threads(),
    )  # fmt: skip
    return out
