"""Inputs for tests and measurements of attention, with NaN wherever nothing was written; and how
far an output is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workbench_kernels.tiles import SliceRows, consecutive


class Inputs(NamedTuple):
    """Queries ``[rows, heads, k_dim]`` and the pools ``[kv_heads, cells, dim]`` they read."""

    q: Tensor
    k: Tensor
    v: Tensor


def inputs(
    slices: Sequence[SliceRows],
    *,
    heads: int,
    kv_heads: int,
    k_dim: int,
    v_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Inputs:
    """Random inputs for some slices, the same for the same seed.

    What the slices' runs name is normal noise; every other cell, one before the first and one
    after the last run included, is NaN.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    runs = {run for item in slices for run in item.runs}
    cells = max(run.start + run.length for run in runs) + 1
    pools = []
    for dim in (k_dim, v_dim or k_dim):
        pool = torch.full((kv_heads, cells, dim), torch.nan, dtype=dtype, device=device)
        for run in sorted(runs):
            pool[:, run.start : run.start + run.length] = noise(kv_heads, run.length, dim)
        pools.append(pool)
    rows = sum(item.num_rows for item in slices)
    return Inputs(noise(rows, heads, k_dim), *pools)


def relative_error(got: Tensor, want: Tensor) -> float:
    """How far vectors of the last dim are off at most, as a share of their lengths; NaN included.

    Attention over many cells averages noise to almost nothing: a bound on differences would let
    pass what lacks a part of the cells, or gives zeros.
    """
    got, want = got.double(), want.double()
    off, length = (got - want).norm(dim=-1), want.norm(dim=-1)
    return float((off / length.clamp(min=1e-30)).max()) if len(got) else 0.0


def branches(num: int, rows: int, context: int) -> list[SliceRows]:
    """Questions of ``rows`` tokens each on branches of one context; each branch owns its tail."""
    trunk = (0, context)
    return [
        SliceRows(i * rows, rows, context, consecutive(trunk, (context + 1 + i * (rows + 1), rows)))
        for i in range(num)
    ]
