"""What K standing questions on one long session cost: together, asked one by one, and plainly."""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.bench import result
from workbench.bench.contenders import PROMPT, UP_DOWN
from workbench.bench.model import MODELS, load_plain, model_folder
from workbench.bench.peers import Warm, WarmStatic
from workbench.bench.stream import SCHEMA, bars, take
from workbench.events import Event, Planned

DESCRIPTION = (
    "A bar arrives at a session with K flash queries; the time until the last of them is answered "
    "is set beside the same K questions asked one after the other, and beside plain transformers "
    "with a preallocated cache kept warm. Rows of all K share each read of the session's cells and "
    "each forward."
)
KINDS = {"choice": "of two answers", "open": "8 tokens"}
OPEN_TOKENS = 8
PAUSE_S = 0.05
BAR_ROOM = 32  # tokens, of a bar or a question and its answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    shown = "(default: %(default)s)"
    parser.add_argument("--model", choices=MODELS, default="250m", help=f"whose {shown}")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 4, 16], metavar="K",
                        help="how many standing questions (default: 1 4 16)")  # fmt: skip
    parser.add_argument("--context", type=int, default=9_500, metavar="TOKENS",
                        help=f"what the session holds {shown}")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=7, metavar="N",
                        help=f"bars that count, for each K {shown}")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Measure, print the table, write the JSON."""
    found = result.header("flash", command)
    with model_folder(options.model) as folder:
        cells = options.context + 64 * (len(options.queries) * 2 * (options.repeats + 2) + 8)
        with wb.Engine(folder, cells=cells + 8192, watermark=8192, speculate=False) as engine:
            bench = _Bench(engine, folder, options.context, cells)
            found |= {
                "model": {"name": options.model, "dtype": str(engine.dtype)},
                "repeats": options.repeats,
                "rows": [
                    bench.measure(kind, num, options.repeats)
                    for kind in KINDS
                    for num in options.queries
                ],
            }
    print(table(found["rows"]))
    print(f"\nwritten to {result.write(found, f'flash-{options.model}', options.out)}")
    return 0


class _Bench:
    def __init__(self, engine: wb.Engine, folder: Path, context: int, cells: int) -> None:
        self.engine = engine
        self.session = engine.open("bench", prompt=PROMPT, schema=SCHEMA, cells=cells)
        self.rows = bars(0)
        fill = take(self.rows, context - self.session.position, engine.tokens.data)
        self.session.push(fill).wait()
        self.plain = engine.call(lambda: load_plain(folder, engine.dtype))
        self.read = Warm(self.plain)
        self.steps: list[Planned] = []
        engine.events.subscribe(self._note)

    def _warmed(self, bars: int) -> WarmStatic:
        """The peer at its best: a preallocated cache that has read the session's context.

        Attention reads all of it, so it has no more room than for some bars and an answer.
        """
        self.read.advance(self.session.token_ids[self.read.length :])
        return WarmStatic(self.plain, self.read, (bars + 2) * BAR_ROOM)

    def _note(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.steps.append(event)

    def measure(self, kind: str, num: int, repeats: int) -> dict[str, Any]:
        """Medians in milliseconds, of everyone, each after a bar of its own."""
        self.warm = self.engine.call(lambda: self._warmed(repeats + 1))
        words = [f"Is the trend up or down over {n + 10} bars?" for n in range(num)]
        asked: dict[str, Any] = (
            {"choices": UP_DOWN} if kind == "choice" else {"max_tokens": OPEN_TOKENS}
        )
        together, in_steps, one_by_one, plainly = [], [], [], []
        for _ in range(repeats + 1):
            self._bar()
            one_by_one.append(self._timed(lambda: [self.session.ask(w, **asked) for w in words]))
            plainly.append(self.engine.call(lambda: self._plainly(kind, words)))
        queries = [self.session.flash(w, name=str(n), **asked) for n, w in enumerate(words)]
        for query in queries:
            query.wait()
        for _ in range(repeats + 1):
            time.sleep(PAUSE_S)
            self.steps.clear()
            together.append(self._evaluated(queries))
            in_steps.append(sum(e.duration_s for e in self.steps if e.flash) * 1e3)
        for query in queries:
            query.remove()
        # The first of each is a warm-up.
        times = {"together_ms": together, "in_steps_ms": in_steps, "asked_ms": one_by_one,
                 "transformers_warm_ms": plainly}  # fmt: skip
        return {
            "kind": kind, "queries": num, "context": self.session.position,
            **{name: statistics.median(values[1:]) for name, values in times.items()},
            "all": times,
        }  # fmt: skip

    def _bar(self) -> None:
        self.session.push(next(self.rows)).wait()
        self.engine.call(lambda: self.warm.advance(self.session.token_ids[self.warm.length :]))
        time.sleep(PAUSE_S)

    def _evaluated(self, queries: list[wb.FlashQuery]) -> float:
        """Milliseconds from the moment a bar is visible until the last query has seen it."""
        visible = threading.Event()
        tick = self.session.push(next(self.rows))
        began = [0.0]

        def note() -> None:
            began[0] = time.perf_counter()
            visible.set()

        tick.when_done(note)
        visible.wait()
        for query in queries:
            query.wait()
        took_ms = (time.perf_counter() - began[0]) * 1e3
        self.engine.call(lambda: None)  # the last step has been reported by then
        return took_ms

    def _plainly(self, kind: str, words: list[str]) -> float:
        """The same questions to plain transformers, its cache cropped after each."""
        tokens = self.engine.tokens
        choices = [tokens.choice(choice) for choice in UP_DOWN]

        def ask() -> None:
            for text in words:
                ids = tokens.question(text)
                if kind == "open":
                    self.warm.ask(ids, OPEN_TOKENS)
                elif all(len(choice) == 1 for choice in choices):
                    self.warm.ask(ids, 1)  # one forward scores them all
                else:
                    for choice in choices:
                        self.warm.score(ids, choice)

        return self._timed(ask)

    @staticmethod
    def _timed(function: Any) -> float:
        began = time.perf_counter()
        function()
        return (time.perf_counter() - began) * 1e3


def table(rows: list[dict[str, Any]]) -> str:
    """One line per kind and K; ratios are to K = 1 of the same kind."""
    first = {row["kind"]: row for row in reversed(rows)}
    lines = []
    for row in rows:
        one = first[row["kind"]]
        lines.append([
            f"{row['kind']} ({KINDS[row['kind']]})", str(row["queries"]), f"{row['context']:,}",
            f"{row['together_ms']:,.0f}", f"{row['together_ms'] / one['together_ms']:.2f}x",
            f"{row['asked_ms']:,.0f}", f"{row['transformers_warm_ms']:,.0f}",
        ])  # fmt: skip
    heads = ["answer", "K", "context", "flash, ms", "to K=1", "asked in turn, ms",
             "transformers kept warm, ms"]  # fmt: skip
    return result.table(heads, lines)
