"""The same arrivals without sessions' machinery: one warm cache each, one request at a time.

What a careful person writes with transformers alone: a `DynamicCache` per session, cropped after
each question. Questions go first, each after its session's rows, which are read in one forward;
then the rows that wait longest; and when nothing else waits, standing questions, each at most once:
like ours, they skip versions that nobody would see.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from workbench.bench.model import load_plain
from workbench.bench.peers import Warm, _forward
from workbench.bench.sessions.arrivals import Arrival, What, Workload
from workbench.bench.sessions.material import Material, text_of
from workbench.bench.sessions.measure import FlashDone, Log, summary
from workbench.bench.sessions.neighbours import Neighbours
from workbench.bench.sessions.pace import Pace
from workbench.engine.tokens import Tokens
from workbench.metrics import percentile

NAME = "transformers, one at a time"


class _Request(NamedTuple):
    """A question or a tick; ``arrival`` is its index, ``ids`` are a tick's."""

    session: int
    what: What
    arrival: int
    ids: Sequence[int] = ()


class _Cache(Warm):
    """A warm cache that can also choose between answers."""

    def choose(self, question: Sequence[int], choices: Sequence[Sequence[int]]) -> int:
        """Which of the answers is likeliest: one forward where each is a single token."""
        if any(len(ids) > 1 for ids in choices):
            scores = [sum(self.score(question, ids)) for ids in choices]
            return scores.index(max(scores))
        logits = _forward(self._model, self._cache, question)[-1]
        self._cut(len(question))
        return int(logits[[ids[0] for ids in choices]].argmax())


class _Alone:
    """One thread's model and caches, and what waits for it."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, workload: Workload, due: Sequence[Arrival],
        material: Material,
    ) -> None:  # fmt: skip
        self.workload, self.due, self.material = workload, due, material
        self.tokens = Tokens(AutoTokenizer.from_pretrained(folder), [])
        self.log = Log(workload.seconds)
        self._news = threading.Condition()
        self._asked: deque[_Request] = deque()
        self._read: deque[_Request] = deque()  # ticks, of all sessions
        self._standing: dict[tuple[int, int], None] = {}  # session and query, in order
        self._ended = False
        self.question = self.tokens.question(material.question)
        self.flash = [self.tokens.question(words) for words in material.flash]
        self.choices = [self.tokens.choice(choice) for choice in material.choices]
        self.versions = [0] * workload.sessions
        self.until = float("inf")
        self._ticks = iter(material.ticks)
        model = load_plain(folder, dtype)
        self.caches = [_Cache(model) for _ in material.fills]
        for cache, rows in zip(self.caches, material.fills, strict=True):
            cache.advance([*material.head, *self.tokens.data(text_of(rows))])

    def send(self, index: int, arrival: Arrival) -> None:
        """Note what is due; the rows are tokenized by whoever sends, as a session's are."""
        ids: Sequence[int] = ()
        if arrival.what is What.TICK:
            ids = self.tokens.data(text_of(next(self._ticks)))
        with self._news:
            waiting = self._read if arrival.what is What.TICK else self._asked
            waiting.append(_Request(arrival.session, arrival.what, index, ids))
            self._news.notify()

    def end(self) -> None:
        """Nothing more comes: end once nothing waits."""
        with self._news:
            self._ended = True
            self._news.notify()

    def serve(self, pace: Pace) -> None:
        """Do one thing after the other, until nothing more comes or it is past ``until``."""
        while True:
            with self._news:
                while not (self._asked or self._read or self._standing):
                    if self._ended:
                        return
                    self._news.wait()
                asked = self._asked.popleft() if self._asked else None
                ticks = self._ticks_of(asked) if asked or self._read else []
                standing = next(iter(self._standing), None)
            if pace.now >= self.until:
                return
            if ticks:
                self._timed(pace, self._take, ticks)
            if asked is not None:
                self._timed(pace, self._answer, asked)
            elif not ticks and standing is not None:
                del self._standing[standing]
                self._timed(pace, self._flash, standing)

    def _ticks_of(self, asked: _Request | None) -> list[_Request]:
        """The rows that the question's session waits for; without one, whose have waited longest.

        They are taken off what waits.
        """
        session = self._read[0].session if asked is None else asked.session
        found = [tick for tick in self._read if tick.session == session]
        self._read = deque(tick for tick in self._read if tick.session != session)
        return found

    def _timed(self, pace: Pace, do: Callable[[Any, Pace], dict[str, int]], what: Any) -> None:
        began = time.perf_counter()
        kinds = do(what, pace)
        self.log.ran(pace.now, time.perf_counter() - began, **kinds)

    def _take(self, ticks: list[_Request], pace: Pace) -> dict[str, int]:
        session, ids = ticks[0].session, [token for tick in ticks for token in tick.ids]
        self.caches[session].advance(ids)
        for tick in ticks:
            self.log.done[tick.arrival] = pace.now
        self.versions[session] += len(ticks)
        for query in range(len(self.flash)):
            self._standing.setdefault((session, query))
        return {"ingest": len(ids)}

    def _answer(self, request: _Request, pace: Pace) -> dict[str, int]:
        cache, index = self.caches[request.session], request.arrival
        if request.what is What.CHOICES:
            cache.choose(self.question, self.choices)
            self.log.done[index] = self.log.first[index] = pace.now
            return {"question": len(self.question)}
        began = pace.now
        reply = cache.ask(self.question, self.workload.answer_tokens)
        self.log.first[index] = began + reply.ttft_ms / 1e3
        self.log.done[index] = began + reply.total_ms / 1e3
        return {"question": len(self.question), "decode": self.workload.answer_tokens - 1}

    def _flash(self, standing: tuple[int, int], pace: Pace) -> dict[str, int]:
        session, query = standing
        question = self.flash[query]
        self.caches[session].choose(question, self.choices)
        self.log.flash.append(FlashDone(pace.now, session, query, self.versions[session]))
        return {"flash": len(question)}


def run(
    folder: Path,
    dtype: torch.dtype,
    workload: Workload,
    due: Sequence[Arrival],
    material: Material,
    *,
    drain: float,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the plain loop in real time; everything of it computes in one thread.

    Args:
        folder, dtype: the model, and the type it computes in.
        workload, due, material: what arrives.
        drain: seconds to wait, after the last arrival, for what is queued.
        progress: show a progress bar on standard error.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="alone") as pool:
        alone = pool.submit(_Alone, folder, dtype, workload, due, material).result()
        alone.until = workload.seconds + drain
        neighbours = Neighbours()
        pace = Pace()
        serving = pool.submit(alone.serve, pace)
        try:
            pace.send(due, alone.send, workload.seconds, progress=progress)
        except BaseException:
            alone.until = 0.0  # do not finish what is queued
            raise
        finally:
            alone.end()
        serving.result()
        others = neighbours.share()
    alone.log.close(len(due), pace.now)
    return {
        "system": NAME,
        **summary(due, alone.log, sessions=workload.sessions, flash=workload.flash),
        "others_cpu": others,
        "sent_late_ms_p99": percentile(pace.late_s, 0.99) * 1e3,
        "done_s": {index: round(at, 5) for index, at in sorted(alone.log.done.items())},
    }
