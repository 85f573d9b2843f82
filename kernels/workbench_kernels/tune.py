"""``python -m workbench_kernels.tune``: measure tile sizes on this GPU for `tuning.TABLE`.

Each candidate block is compared with the float64 reference, then timed on questions of one token
and of 16, on 16 branches of one context, and on a prefill chunk. Only blocks whose outputs are the
same bit for bit go into one row. It prints the rows to put into ``tuning.py``; a head dim takes
some minutes, most of it compiling.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from workbench_kernels import reference, testing, tuning
from workbench_kernels.bench_gpu import BOUND, say
from workbench_kernels.tuning import Block, Sizes

if TYPE_CHECKING:
    from workbench_kernels.gpu.measuring import Layers

DIMS = (64, 128, 256)
GROUP = 4
CELLS = (16, 32, 64, 128)
BLOCKS = [
    Block(rows, warps, stages)
    for rows, warps in [(16, 1), (16, 2), (16, 4), (64, 4), (64, 8), (128, 4), (128, 8)]
    for stages in (2, 3, 4)
]
# Name: (branches, rows of each, cells of context).
WORK = {
    "1 token, 2.6k cells": (1, 1, 2_600),
    "1 token, 19k": (1, 1, 19_000),
    "4 tokens, 19k": (1, 4, 19_000),
    "16 tokens, 19k": (1, 16, 19_000),
    "64 tokens, 19k": (1, 64, 19_000),
    "16 branches, 19k": (16, 1, 19_000),
    "512 tokens, 19k": (1, 512, 19_000),
}
PROBE = (3, 5, 1_500)
SPLITS = list(itertools.product((64, 128, 256), (16, 32, 64, 128)))  # least_split, parts
WORTH = 0.03  # a block stays if without it some work is slower by this much


class Measured(NamedTuple):
    """A candidate block: what it takes per kind of work, and a digest of its output."""

    cells: int
    block: Block
    seconds: dict[str, float]
    digest: str


def plausible(cells: int, block: Block, dim: int) -> bool:
    """Whether a block may fit: 227 KiB of cells in flight, 160 registers of sums per thread."""
    shared = block.stages * cells * 2 * dim * 2
    registers = block.rows * (dim + cells) / (32 * block.warps)
    return shared <= 227 * 1024 and registers <= 160


def taken(group: Sequence[Measured]) -> dict[str, float]:
    """Seconds per kind of work if these blocks are a row of the table: the first that holds all."""
    seconds = {}
    for name, (branches, rows, _) in WORK.items():
        packed = branches * rows * GROUP
        ascending = sorted(group, key=lambda m: m.block.rows)
        chosen = next((m for m in ascending if m.block.rows >= packed), ascending[-1])
        seconds[name] = chosen.seconds[name]
    return seconds


def choose(measured: Iterable[Measured]) -> tuple[int, tuple[Block, ...]]:
    """The cells and blocks that are fastest together, by the product of what all work takes.

    Only blocks with the same cells and the same output go together, at most one per number of
    rows; a block without which no work is slower by `WORTH` is left out.
    """
    groups: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for candidate in measured:
        groups[candidate.cells, candidate.digest].append(candidate)
    fastest = min(map(_best, groups.values()), key=_product)
    return fastest[0].cells, tuple(m.block for m in fastest)


def _best(group: list[Measured]) -> list[Measured]:
    by_rows: dict[int, list[Measured]] = defaultdict(list)
    for candidate in group:
        by_rows[candidate.block.rows].append(candidate)
    sets = itertools.product(*([None, *same] for same in by_rows.values()))
    kept = min(([m for m in some if m] for some in sets if any(some)), key=_product)
    for one in list(kept):
        rest = [m for m in kept if m is not one]
        if rest:
            with_it, without = taken(kept), taken(rest)
            if all(without[name] < with_it[name] * (1 + WORTH) for name in with_it):
                kept = rest
    return sorted(kept, key=lambda m: m.block.rows)


def _product(group: Sequence[Measured]) -> float:
    return math.prod(taken(group).values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all candidates; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench_kernels.tune", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--dims", type=int, nargs="+", choices=DIMS, default=DIMS, metavar="DIM",
                        help="head dims to tune for (default: 64 128 256)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write every figure as JSON")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("torch finds no CUDA device\n")
        return 1
    from workbench_kernels.gpu.measuring import Layers

    family = tuning.family(torch.cuda.get_device_capability())
    say(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}")
    figures = {}
    for dim in options.dims:
        work = {name: Layers(testing.branches(*shape), dim=dim) for name, shape in WORK.items()}
        probe = Layers(testing.branches(*PROBE), dim=dim, least_bytes=0)
        measured = list(candidates(work, probe, dim))
        sizes, seconds = fastest_split(Sizes(*choose(measured)), work)
        say(f'    ("{family}", {dim}): {sizes},')
        for name, value in seconds.items():
            say(f"    # {name}: {value * 1e6:.1f} us, "
                f"{work[name].bytes_read / value / 1e9:.0f} GB/s")  # fmt: skip
        figures[dim] = [
            {"cells": m.cells, **m.block._asdict(), "seconds": m.seconds, "digest": m.digest}
            for m in measured
        ]
        if options.out:
            options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def candidates(work: dict[str, Layers], probe: Layers, dim: int) -> Iterator[Measured]:
    """Every block that fits the device, timed alone; what is wrong or does not fit is named."""
    from triton.runtime.errors import OutOfResources

    want = reference.attend_slices(*probe.inputs[0], probe.slices, scale=probe.scale)
    for cells, block in itertools.product(CELLS, BLOCKS):
        if not plausible(cells, block, dim):
            continue
        sizes = Sizes(cells, (block,))
        try:
            got = probe.attend(sizes)[0]
        except OutOfResources as error:
            say(f"# {cells} cells, {block}: {error}")
            continue
        difference = testing.relative_error(got, want)
        if not difference <= BOUND:  # NaN included
            say(f"# {cells} cells, {block}: off by {difference}")
            continue
        digest = hashlib.sha256(got.float().cpu().numpy().tobytes()).hexdigest()[:16]
        seconds = {name: layers.seconds(sizes) for name, layers in work.items()}
        yield Measured(cells, block, seconds, digest)


def fastest_split(sizes: Sizes, work: dict[str, Layers]) -> tuple[Sizes, dict[str, float]]:
    """The sizes with the fastest way to split positions, and what the work then takes."""
    tried = []
    for least_split, parts in SPLITS:
        if least_split % sizes.cells == 0:
            split = sizes._replace(least_split=least_split, parts=parts)
            tried.append((split, {name: layers.seconds(split) for name, layers in work.items()}))
    return min(tried, key=lambda pair: math.prod(pair[1].values()))


if __name__ == "__main__":
    sys.exit(main())
