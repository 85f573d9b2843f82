"""What sessions with one prompt and one feed save: tokens, cells and time."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.bench import result
from workbench.bench.contenders import PROMPT
from workbench.bench.model import MODELS, model_folder
from workbench.bench.stream import SCHEMA, bars, take
from workbench.errors import WorkbenchError

DESCRIPTION = (
    "One feed is fanned out to many sessions, bar by bar; once with the same prompt, so that all "
    "of it is shared, and once with a word of its own at the head of each session's, so that "
    "nothing can be. Answers must be the same in every session that shares."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    shown = "(default: %(default)s)"
    parser.add_argument("--model", choices=MODELS, default="250m", help=f"whose {shown}")
    parser.add_argument("--sessions", type=int, default=16, metavar="N", help=f"how many {shown}")
    parser.add_argument("--context", type=int, default=2_000, metavar="TOKENS",
                        help=f"that each session reads {shown}")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Measure, print the table, write the JSON."""
    found = result.header("sharing", command)
    with model_folder(options.model) as folder:
        rows = [_feed(folder, options.sessions, options.context, shared=s) for s in (True, False)]
    found |= {"model": options.model, "sessions": options.sessions, "rows": rows}
    print(table(rows))
    print(f"\nwritten to {result.write(found, f'sharing-{options.model}', options.out)}")
    return 0


def _feed(folder: Path, num_sessions: int, context: int, *, shared: bool) -> dict[str, Any]:
    budget = context + 256
    with wb.Engine(
        folder, cells=num_sessions * budget + 2048, watermark=2048, speculate=False
    ) as engine:
        began = time.perf_counter()
        sessions = []
        for number in range(num_sessions):
            prompt = PROMPT if shared else f"{number} {PROMPT}"
            sessions.append(engine.open(f"s{number}", prompt=prompt, schema=SCHEMA, cells=budget))
        rows = take(bars(0), context - sessions[0].position, engine.tokens.data)
        for row in rows:
            for session in sessions:
                session.push(row)
        for session in sessions:
            session.flush()
        took_s = time.perf_counter() - began
        engine.call(lambda: None)  # the step that read the last row has been counted
        stats = engine.stats()
        held = engine.num_cells - engine.pool.num_free
        reserved = sum(session.budget - session.cells_used for session in sessions)
        answers = {
            tuple(session.ask("Is the trend up or down?", max_tokens=4).token_ids)
            for session in sessions
        }
        if shared and len(answers) != 1:
            msg = f"expected one answer of sessions that share all, got {len(answers)}"
            raise WorkbenchError(msg)
        return {
            "shared": shared, "seconds": took_s,
            "tokens_served": stats.ingested_tokens + stats.shared_tokens,
            "tokens_computed": stats.ingested_tokens,
            "cells_filled": sum(session.cells_used for session in sessions),
            "cells_held": held - reserved,
            "bytes_held": (held - reserved) * engine.decoder.bytes_per_cell,
        }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """One line for all that is shared, one for nothing shared."""
    lines = [
        [
            "one prompt, one feed" if row["shared"] else "a prompt each",
            f"{row['tokens_served']:,}", f"{row['tokens_computed']:,}",
            f"{row['cells_filled']:,}", f"{row['cells_held']:,}",
            f"{row['bytes_held'] / 1e6:,.0f}", f"{row['seconds']:,.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    heads = ["sessions with", "tokens served", "computed", "cells filled", "held", "MB", "seconds"]
    return result.table(heads, lines)
