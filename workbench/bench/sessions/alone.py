"""The same arrivals without sessions' machinery: one warm cache each, one request at a time.

What a careful person writes with transformers alone: a `DynamicCache` per session, cropped after
each question; whatever arrives joins one queue and is done in order. When a tick is in, its
session's standing questions join the end of the queue, each at most once: like ours, they skip
versions that nobody would see.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
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
    """A tick with its ids, a question, or (``query`` >= 0) a standing question's turn."""

    session: int
    what: What
    arrival: int = -1  # its index
    ids: Sequence[int] = ()
    query: int = -1


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
    """One thread's model, caches and queue."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, workload: Workload, due: Sequence[Arrival],
        material: Material,
    ) -> None:  # fmt: skip
        self.workload, self.due, self.material = workload, due, material
        self.tokens = Tokens(AutoTokenizer.from_pretrained(folder), [])
        self.log = Log(workload.seconds)
        self.queue: SimpleQueue[_Request | None] = SimpleQueue()
        self.question = self.tokens.question(material.question)
        self.flash = [self.tokens.question(words) for words in material.flash]
        self.choices = [self.tokens.choice(choice) for choice in material.choices]
        self.versions = [0] * workload.sessions
        self.waiting: set[tuple[int, int]] = set()  # standing questions in the queue
        self.until = float("inf")
        self._ticks = iter(material.ticks)
        model = load_plain(folder, dtype)
        self.caches = [_Cache(model) for _ in material.fills]
        for cache, rows in zip(self.caches, material.fills, strict=True):
            cache.advance([*material.head, *self.tokens.data(text_of(rows))])

    def send(self, index: int, arrival: Arrival) -> None:
        """Queue what is due; the rows are tokenized by whoever sends, as a session's are."""
        ids: Sequence[int] = ()
        if arrival.what is What.TICK:
            ids = self.tokens.data(text_of(next(self._ticks)))
        self.queue.put(_Request(arrival.session, arrival.what, index, ids))

    def serve(self, pace: Pace) -> None:
        """Do one request after the other, until there is None or it is past ``until``."""
        while (request := self.queue.get()) is not None and pace.now < self.until:
            began = time.perf_counter()
            kinds = self._flash(request, pace) if request.query >= 0 else self._one(request, pace)
            self.log.ran(pace.now, time.perf_counter() - began, **kinds)

    def _one(self, request: _Request, pace: Pace) -> dict[str, int]:
        cache, index = self.caches[request.session], request.arrival
        if request.what is What.TICK:
            cache.advance(request.ids)
            self.log.done[index] = pace.now
            self.versions[request.session] += 1
            for query in range(len(self.flash)):
                if (request.session, query) not in self.waiting:
                    self.waiting.add((request.session, query))
                    self.queue.put(_Request(request.session, What.CHOICES, query=query))
            return {"ingest": len(request.ids)}
        if request.what is What.CHOICES:
            cache.choose(self.question, self.choices)
            self.log.done[index] = self.log.first[index] = pace.now
            return {"question": len(self.question)}
        began = pace.now
        reply = cache.ask(self.question, self.workload.answer_tokens)
        self.log.first[index] = began + reply.ttft_ms / 1e3
        self.log.done[index] = began + reply.total_ms / 1e3
        return {"question": len(self.question), "decode": self.workload.answer_tokens - 1}

    def _flash(self, request: _Request, pace: Pace) -> dict[str, int]:
        self.waiting.discard((request.session, request.query))
        version, question = self.versions[request.session], self.flash[request.query]
        self.caches[request.session].choose(question, self.choices)
        self.log.flash.append(FlashDone(pace.now, request.session, request.query, version))
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
            alone.queue.put(None)
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
