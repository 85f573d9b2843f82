"""``python -m workbench_kernels.bench_gpu``: attention's GB/s against a copy's, and others'.

Questions of a few tokens on one context, alone and 16 on branches that share it. GB/s counts every
cell once. What is possible is the longer of reading at a copy's speed and computing at a large
product's: 64 tokens of 32 heads over 8 compute for longer than they read. Beside it torch's SDPA,
flex_attention, and FlashAttention where it is installed, on the context alone (`gpu.others`); a
peer whose output differs from SDPA's is not timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench_kernels import reference, testing

# (branches, rows of each, cells of context); the last number of cells fills no whole part.
SHAPES = [
    (branches, rows, cells)
    for cells in (2_600, 19_000, 128_000)
    for branches in (1, 16)
    for rows in (1, 4, 16, 64)
]
HEADS, KV_HEADS = 32, 8
# bfloat16 against float64, `testing.relative_error`: weights and output are rounded by up to 2**-9.
BOUND = 1e-2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON if asked; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench_kernels.bench_gpu", description=(__doc__ or "").split("\n\n")[1]
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("torch finds no CUDA device\n")
        return 1
    for result in run(options.dims):
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.add_argument("--dims", type=int, nargs="+", default=[128], metavar="DIM",
                        help="head dims (default: 128)")  # fmt: skip


def run(dims: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure all shapes on the GPU, printing a table; yields what there is after each."""
    from workbench_kernels.gpu import measuring

    copy, flops = measuring.copy_bandwidth(), measuring.product_flops()
    machine = {
        "device": torch.cuda.get_device_name(), "copy_gb_s": copy / 1e9,
        "product_tflop_s": flops / 1e12, "heads": HEADS, "kv_heads": KV_HEADS,
        "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    say(
        f"{machine['device']}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s, "
        f"product {flops / 1e12:.0f} TFLOP/s"
    )
    say(HEADINGS)
    rows = []
    for dim in dims:
        for shape in SHAPES:
            rows.append(measure(*shape, dim, copy, flops))
            say(line(rows[-1]))
            yield {**machine, "rows": rows}


def measure(
    branches: int, rows: int, cells: int, dim: int, copy: float, flops: float
) -> dict[str, Any]:
    """One row of the table; refuses to time what is not right.

    Args:
        branches: questions on the context, of ``rows`` tokens each over ``cells`` cells.
        rows: see ``branches``.
        cells: see ``branches``.
        dim: of every head.
        copy: bytes per second of a copy.
        flops: operations per second of a large product.
    """
    from workbench_kernels.gpu import measuring

    slices = testing.branches(branches, rows, cells)
    layers = measuring.Layers(slices, heads=HEADS, kv_heads=KV_HEADS, dim=dim)
    want = reference.attend_slices(*layers.inputs[0], slices, scale=layers.scale)
    error = testing.relative_error(layers.attend()[0], want)
    if not error <= BOUND:  # NaN included
        msg = f"attention of {branches} x {rows} rows over {cells} cells is off by {error}"
        raise RuntimeError(msg)
    ours = layers.seconds()
    # A product of queries and keys, and one of weights and values: two operations each.
    computing = 4 * dim * HEADS * branches * rows * cells / flops
    return {
        "branches": branches, "rows": rows, "cells": cells, "dim": dim, "error": error,
        "us": ours * 1e6, "gb_s": layers.bytes_read / ours / 1e9,
        "of_copy": layers.bytes_read / ours / copy,
        "of_possible": max(layers.bytes_read / copy, computing) / ours,
        "peers": peers(layers, branches, rows, cells),
    }  # fmt: skip


def peers(layers: Any, branches: int, rows: int, cells: int) -> dict[str, float | str]:
    """Microseconds of each peer over the context alone, or why it has none."""
    from workbench_kernels.gpu import measuring, others

    def shaped(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = q.view(branches, rows, *q.shape[1:]).transpose(1, 2)
        keys, values = (x[None, :, :cells].expand(branches, -1, -1, -1) for x in (k, v))
        return query, keys, values

    inputs = [shaped(*each) for each in layers.inputs]
    want = others.sdpa(*inputs[0], layers.scale)()
    found: dict[str, float | str] = {}
    for name, make in others.PEERS.items():
        try:
            calls = [make(*each, layers.scale) for each in inputs]
            error = testing.relative_error(calls[0](), want)
            right = error <= BOUND
            found[name] = measuring.seconds(calls) * 1e6 if right else f"off by {error:.2g}"
        except Exception as problem:  # every package refuses in its own way
            found[name] = (str(problem).strip() or repr(problem)).splitlines()[0]
    return found


HEADINGS = (
    " dim branches rows   cells |       us   GB/s  of copy of possible |"
    "     SDPA     flex    flash us"
)


def line(row: dict[str, Any]) -> str:
    """A measurement as a line under `HEADINGS`; ``-`` for a peer that has no time."""
    times = row["peers"].values()
    return (
        f"{row['dim']:4} {row['branches']:8} {row['rows']:4} {row['cells']:7} | "
        f"{row['us']:8.1f} {row['gb_s']:6.0f} {row['of_copy']:7.0%} "
        f"{row['of_possible']:12.0%} | "
        + " ".join(f"{time:8.1f}" if isinstance(time, float) else f"{'-':>8}" for time in times)
    )


def say(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
