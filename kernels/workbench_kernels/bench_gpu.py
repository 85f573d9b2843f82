"""``python -m workbench_kernels.bench_gpu``: attention's GB/s against a copy's and torch's SDPA.

Questions of a few tokens on one context, alone and on many branches that share it. GB/s counts
every cell once. SDPA gets the shared context as an expanded view (nothing is copied for it), no
mask, and none of the branches' own tails; it reads the same bytes where it can.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench_kernels import reference, testing

# (branches, rows of each, cells of context)
SHAPES = [
    *[(1, rows, cells) for cells in (2_048, 8_192, 19_000, 65_536) for rows in (1, 8, 16)],
    *[(num, rows, 19_000) for num in (4, 16) for rows in (1, 16)],
]
DIMS = (64, 128)
HEADS, KV_HEADS = 32, 8
# bfloat16 against float64: rounding of the weights and of the output, 2**-9 each of values near 1.
BOUND = 2e-2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON if asked; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench_kernels.bench_gpu", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("torch finds no CUDA device\n")
        return 1
    from workbench_kernels.gpu import measuring

    copy = measuring.copy_bandwidth()
    machine = {
        "device": torch.cuda.get_device_name(), "copy_gb_s": copy / 1e9, "heads": HEADS,
        "kv_heads": KV_HEADS, "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    say(f"{machine['device']}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s")
    say(HEADINGS)
    rows = []
    for dim in DIMS:
        for shape in SHAPES:
            rows.append(measure(*shape, dim, copy))
            say(line(rows[-1]))
    if options.out:
        options.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
    return 0


def measure(branches: int, rows: int, cells: int, dim: int, copy: float) -> dict[str, Any]:
    """One row of the table; refuses to time what is not right."""
    from workbench_kernels.gpu import measuring

    slices = testing.branches(branches, rows, cells)
    layers = measuring.Layers(slices, heads=HEADS, kv_heads=KV_HEADS, dim=dim)
    want = reference.attend_slices(*layers.inputs[0], slices, scale=layers.scale)
    error = float((layers.attend()[0].double() - want).abs().max())
    if not error <= BOUND:  # NaN included
        msg = f"attention of {branches} x {rows} rows over {cells} cells is off by {error}"
        raise RuntimeError(msg)
    ours, sdpa = layers.seconds(), torch_seconds(layers, branches, rows, cells)
    return {
        "branches": branches, "rows": rows, "cells": cells, "dim": dim, "error": error,
        "us": ours * 1e6, "gb_s": layers.bytes_read / ours / 1e9,
        "of_copy": layers.bytes_read / ours / copy, "sdpa_us": sdpa * 1e6,
    }  # fmt: skip


def torch_seconds(layers: Any, branches: int, rows: int, cells: int) -> float:
    """Seconds of torch's scaled_dot_product_attention over the context alone."""
    from workbench_kernels.gpu import measuring

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        query = q.view(branches, rows, *q.shape[1:]).transpose(1, 2)
        keys, values = (pool[None, :, :cells].expand(branches, -1, -1, -1) for pool in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, scale=layers.scale, enable_gqa=True
        )

    return measuring.seconds([partial(call, *each) for each in layers.inputs])


HEADINGS = " dim branches rows   cells |       us   GB/s  of copy |  SDPA us  SDPA / ours"


def line(row: dict[str, Any]) -> str:
    """A measurement as a line under `HEADINGS`."""
    return (
        f"{row['dim']:4} {row['branches']:8} {row['rows']:4} {row['cells']:7} | "
        f"{row['us']:8.1f} {row['gb_s']:6.0f} {row['of_copy']:7.0%}  | "
        f"{row['sdpa_us']:8.1f} {row['sdpa_us'] / row['us']:8.2f}"
    )


def say(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
