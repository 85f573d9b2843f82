"""Which flash queries to evaluate, and when to give one up; runs in the engine thread."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import defaultdict

from workbench.answer import Answer
from workbench.engine.engine import StepEngine
from workbench.engine.work import Ingest, Question
from workbench.errors import Cancelled, warn
from workbench.events import FlashAnswered
from workbench.flash.query import FlashQuery
from workbench.scheduler.scheduler import Kind

# An evaluation that newer data overtakes is given up, but not more often than this in a row:
# under a stream faster than the answers there would otherwise never be one.
MAX_DROPS_IN_A_ROW = 2


class FlashBoard:
    """Evaluates every query once per version, if there is time; the newest version wins.

    Where a window leaves rows behind, the version it has then is evaluated again.
    """

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self._queries: dict[Ingest, list[FlashQuery]] = defaultdict(list)
        self._running: dict[FlashQuery, Question] = {}
        self._drops: dict[FlashQuery, int] = {}
        self._calls: queue.SimpleQueue[FlashQuery | None] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None
        weakref.finalize(self, self._calls.put, None)  # the thread that runs callbacks ends with it
        engine.ingestion.after_commit.append(self.refresh)
        engine.windows.after_move.append(self.refresh)

    # From any thread.

    def add(self, query: FlashQuery) -> None:
        """Register a query and evaluate it as soon as the engine is idle."""

        def register() -> None:
            self._queries[query.session].append(query)
            self._evaluate(query)

        self._engine.call(register)

    def remove(self, query: FlashQuery) -> None:
        """Forget a query; an evaluation under way is given up."""

        def forget() -> None:
            queries = self._queries.get(query.session, [])
            if query in queries:
                queries.remove(query)
            self._drop(query)
            self._drops.pop(query, None)

        if not self._engine.closed:
            self._engine.call(forget)

    def forget_session(self, session: Ingest) -> None:
        """A session was closed: so are its queries."""
        for query in self._queries.pop(session, []):
            query.removed = True
            self._drop(query)
            self._drops.pop(query, None)
            query.notify()

    def forget_all(self) -> None:
        """The engine was closed: so are all queries."""
        for session in list(self._queries):
            self.forget_session(session)

    def of(self, session: Ingest) -> list[FlashQuery]:
        """The queries registered on a session, in order."""
        return list(self._queries.get(session, []))

    def evaluates(self, query: FlashQuery) -> bool:
        """Whether an evaluation of it is queued or running."""
        return query in self._running

    def refresh_soon(self, query: FlashQuery) -> None:
        """Evaluate a query that may have missed versions."""
        self._engine.post(lambda: self._evaluate(query))

    # In the engine thread.

    def refresh(self, session: Ingest) -> None:
        """A session has a new version: what runs on an old one is superseded."""
        for query in self._queries.get(session, []):
            running = self._running.get(query)
            started = running is not None and running.answer.position >= 0
            if started and self._drops.get(query, 0) < MAX_DROPS_IN_A_ROW:
                self._drops[query] = self._drops.get(query, 0) + 1
                query.dropped += 1
                self._drop(query)
            self._evaluate(query)

    def _evaluate(self, query: FlashQuery) -> None:
        """Queue an evaluation, unless one is queued or running, or there is nothing new."""
        if query.paused or query.removed or query in self._running or query.is_fresh:
            return
        if query.session.closed or query.session.now.version == 0:
            return  # nothing to answer about yet
        answer = Answer(query.question, query.session.name)
        question = Question(
            self._engine.core.next_id(), Kind.FLASH, query.session, answer, query.question_ids,
            query.sampling, query.choice_ids, list(query.choices),
        )  # fmt: skip
        answer.asks_with(query.question_ids, lambda: None)
        query.error = None  # whoever waits, waits for this one
        self._running[query] = question
        answer.when_done(lambda: self._ended(query, question))
        self._engine.questions.add(question)

    def _drop(self, query: FlashQuery) -> None:
        question = self._running.pop(query, None)
        if question is not None:
            self._engine.questions.cancel(question.work)
            query.notify()

    def _ended(self, query: FlashQuery, question: Question) -> None:
        if self._running.get(query) is question:
            del self._running[query]
        answer = question.answer
        if answer.error is not None:
            if not isinstance(answer.error, Cancelled):
                query.error = answer.error
                query.notify()
            return
        self._drops[query] = 0
        changed = query.record(answer)
        self._engine.events.emit(
            FlashAnswered(
                session=query.session.name, flash=query.name, text=answer.text,
                confidence=answer.confidence, version=answer.version, position=answer.position,
                total_ms=answer.total_ms, changed=changed,
            )
        )  # fmt: skip
        if changed and query.on_change is not None:
            self._call(query)
        self._evaluate(query)

    def _call(self, query: FlashQuery) -> None:
        """Run ``on_change`` outside the engine thread: a slow one must not hold up the model."""
        if self._caller is None:
            self._caller = threading.Thread(
                target=_run_callbacks, args=(self._calls,), name="workbench-on-change", daemon=True
            )
            self._caller.start()
        self._calls.put(query)

    def close(self) -> None:
        """End the thread that runs callbacks."""
        self._calls.put(None)


def _run_callbacks(calls: queue.SimpleQueue[FlashQuery | None]) -> None:
    while (query := calls.get()) is not None:
        assert query.on_change is not None
        try:
            query.on_change(query)
        except Exception as error:
            if not query.session.closed:
                name = query.name
                warn(f"on_change of flash query {name!r} raised {error!r}; it stays registered")
        del query  # whoever waits for the next one holds no engine
