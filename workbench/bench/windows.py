"""Thousands of ticks through sessions with windows: memory stays flat, and how far they keep up."""

from __future__ import annotations

import argparse
import gc
import os
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

import workbench as wb
from workbench.bench import result
from workbench.bench.contenders import PROMPT, UP_DOWN
from workbench.bench.model import MODELS, model_folder
from workbench.bench.stream import SCHEMA, bars

DESCRIPTION = (
    "One session rebuilds its window and one evicts its oldest rows, each with a flash query, "
    "while bars arrive as fast as they are taken. Memory of the process, cells and kept tokens are "
    "noted as they go."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    shown = "(default: %(default)s)"
    parser.add_argument("--model", choices=MODELS, default="tape", help=f"whose {shown}")
    parser.add_argument("--ticks", type=int, default=10_000, metavar="N",
                        help=f"bars to each session {shown}")  # fmt: skip
    parser.add_argument("--cells", type=int, default=4_096, metavar="N",
                        help=f"of each session {shown}")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Measure, print the table, write the JSON."""
    found = result.header("windows", command) | {"model": options.model}
    with model_folder(options.model) as folder:
        found |= _measure(folder, options.ticks, options.cells)
    print(table(found))
    print(f"\nwritten to {result.write(found, f'windows-{options.model}', options.out)}")
    return 0


def _measure(folder: Path, ticks: int, cells: int) -> dict[str, Any]:
    samples: list[dict[str, Any]] = []
    with wb.Engine(folder, cells=2 * cells + 2048, watermark=2048, dtype="auto") as engine:
        positions = engine.decoder.max_positions
        sessions = [
            engine.open(name, prompt=PROMPT, schema=SCHEMA, cells=cells, overflow=name)
            for name in ("rebuild", "evict")
        ]
        for session in sessions:
            session.flash("Is the trend up or down?", choices=UP_DOWN)
        began = time.perf_counter()
        rows = bars(0)
        ended: dict[str, int] = {}
        for number in tqdm(range(ticks), unit=" ticks", leave=False):
            row = next(rows)
            for session in sessions:
                if session.name in ended:
                    continue
                try:
                    session.push(row)
                except wb.WorkbenchError:
                    if session.overflow != "evict":
                        raise
                    ended[session.name] = number  # where the model's positions end
            if (number + 1) % max(1, ticks // 20) == 0:
                for session in sessions:
                    session.flush()
                gc.collect()
                samples.append(_sample(engine, number + 1, time.perf_counter() - began))
        stats = engine.stats()
    later = [s["resident_mb"] for s in samples[len(samples) // 4 :]]
    return {
        "ticks": ticks, "cells": cells, "model_positions": positions, "samples": samples,
        "seconds": time.perf_counter() - began, "ended": ended,
        "rebuilds": stats.rebuilds, "behind": stats.behind,
        "ingested_tokens": stats.ingested_tokens,
        "background_tokens": stats.background_tokens,
        "resident_mb_growth_after_first_quarter": later[-1] - later[0],
    }  # fmt: skip


def _sample(engine: wb.Engine, ticks: int, seconds: float) -> dict[str, Any]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "ticks": ticks,
        "seconds": seconds,
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "free_cells": engine.pool.num_free,
        "kept_tokens": {s.name: len(s.token_ids) for s in engine.sessions.values()},
        "window_rows": {s.name: s.window_rows for s in engine.sessions.values()},
        "flash_answers": sum(
            q.evaluations for s in engine.sessions.values() for q in s.flash_queries
        ),
    }


def table(found: dict[str, Any]) -> str:
    """Memory and what is kept, as ticks go by."""
    lines = [
        [
            f"{s['ticks']:,}", f"{s['seconds']:,.0f}", f"{s['resident_mb']:,.1f}",
            f"{s['free_cells']:,}", *(f"{n:,}" for n in s["kept_tokens"].values()),
            f"{s['flash_answers']:,}",
        ]
        for s in found["samples"]
    ]  # fmt: skip
    ended = "".join(
        f"\n{name} ended after {ticks:,} ticks, where the model's positions do"
        for name, ticks in found["ended"].items()
    )
    heads = ["ticks", "seconds", "resident MB", "free cells", "kept: rebuild", "evict", "answers"]
    return (
        f"{result.table(heads, lines)}\n\n{found['rebuilds']:,} windows rebuilt, "
        f"{found['background_tokens']:,} tokens of them in idle time beside "
        f"{found['ingested_tokens']:,} ingested; rows waited for a window {found['behind']:,} times"
        f"{ended}"
    )
