"""A session: push data, ask questions, register standing ones."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.asking import closed_answers, stops
from workbench.backtest import Backtest
from workbench.engine.questions import answered
from workbench.engine.sampler import Sampling
from workbench.engine.work import Ingest, Question
from workbench.errors import (
    CellsExhausted,
    EngineClosed,
    QuestionError,
    RowError,
    SessionClosed,
    WorkbenchError,
)
from workbench.events import Pushed, RowsDropped
from workbench.events import SessionClosed as SessionClosedEvent
from workbench.flash.query import FlashQuery
from workbench.moment import Moment, moment
from workbench.scheduler.scheduler import Kind
from workbench.streams.feed import Feed
from workbench.streams.frames import to_rows
from workbench.streams.render import Schema
from workbench.tick import Tick
from workbench.waiting import Completion

if TYPE_CHECKING:
    from workbench.front import Engine


class Session:
    """A long-lived context that data is pushed into and questions are asked of.

    Opened by ``engine.open(name)``. Attributes are live and may be read from any thread.
    """

    def __init__(self, engine: Engine, ingest: Ingest, prompt: str | None, schema: Schema) -> None:
        self.engine = engine
        self.prompt = prompt
        self.schema = schema
        self.ingest = ingest

    # What it holds.

    @property
    def name(self) -> str:
        """The name it was opened with."""
        return self.ingest.name

    @property
    def version(self) -> int:
        """Ticks that questions see."""
        return self.ingest.now.version

    @property
    def position(self) -> int:
        """Tokens that questions see, the prompt's included."""
        return self.ingest.now.position

    @property
    def rows(self) -> int:
        """Rows that questions see."""
        return self.ingest.now.rows

    @property
    def budget(self) -> int:
        """Cells it may hold."""
        return self.ingest.budget

    @property
    def capacity(self) -> int:
        """Tokens it can show at most: its budget, or half of it where a window is rebuilt."""
        return self.ingest.capacity

    @property
    def state(self) -> str:
        """One of "open", "evicted", "behind", "stands still" (see ``error``) and "closed".

        An evictable session that has not had its cells yet is "waiting".
        """
        if self.closed:
            return "closed"
        if self.error is not None:
            return "stands still"
        if not self.resident:
            return "waiting" if self.ingest.evicted_at is None else "evicted"
        return "behind" if self.behind else "open"

    @property
    def cells_used(self) -> int:
        """Cells it has filled, a tick that is half in included; 0 while it is evicted."""
        return self.ingest.line.computed

    @property
    def overflow(self) -> str:
        """What it does when it is full: "error", "rebuild" or "evict"."""
        return self.ingest.window.overflow if self.ingest.window is not None else "error"

    @property
    def window_rows(self) -> int:
        """Rows that an answer can still see; all of them unless old ones have left."""
        window = self.ingest.window
        return self.rows if window is None else len(window.rows)

    @property
    def behind(self) -> bool:
        """Whether rows come faster than its window can move; they wait, none is lost."""
        return self.ingest.window is not None and self.ingest.window.stalled

    @property
    def evictable(self) -> bool:
        """Whether its cells may go to others while it is idle."""
        return self.ingest.evictable

    @property
    def resident(self) -> bool:
        """Whether it has its cells; an evicted one is computed again when something is asked."""
        return self.ingest.resident

    @property
    def return_cost_s(self) -> float:
        """Seconds until an evicted session could answer, by the engine's cost model; else 0."""
        if self.resident:
            return 0.0
        return self.engine.core.prefill_seconds(len(self.ingest.line.token_ids))

    @property
    def pending_rows(self) -> int:
        """Rows queued and not yet visible."""
        return self.ingest.ticks.rows

    @property
    def dropped_rows(self) -> int:
        """Rows that a full queue dropped (``on_full='drop_oldest'`` only)."""
        return self.ingest.ticks.dropped_rows

    @property
    def error(self) -> BaseException | None:
        """Why ingestion stands still, if it does; ``retry()`` goes on."""
        return self.ingest.error

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self.ingest.closed

    @property
    def token_ids(self) -> list[int]:
        """The log of the tokens an answer can see, oldest first; ones of a half-read tick too."""
        return list(self.ingest.line.token_ids)

    @property
    def flash_queries(self) -> list[FlashQuery]:
        """Its standing questions, in the order they were registered."""
        return self.engine.board.of(self.ingest)

    # Data in.

    def push(self, data: Any) -> Tick:
        """Queue rows; returns at once with a `Tick` to wait for, unless the queue is full.

        Args:
            data: a dict, a text, a list of either, or a polars or pandas frame. All of it becomes
                visible to questions together, as one version.

        Raises:
            RowError: a row does not fit the schema. CellsExhausted: the session's budget has no
            room for it. QueueFull, SessionClosed, SessionFaulted, EngineClosed: it cannot be
            queued. In every case none of the rows were taken.
        """
        return self._push(to_rows(data), from_stream=False)

    def stream(
        self,
        source: Any,
        *,
        rate: float | None = None,
        speed: str | None = None,
        every: int = 1,
        progress: bool = True,
    ) -> Feed:
        """Push a whole source from a background thread.

        Args:
            source: a polars (also lazy) or pandas frame, or any iterable of dicts or texts.
            rate: rows per second; None is as fast as the engine takes them.
            speed: instead, a factor on the rows' own time column, such as "60x".
            every: rows per tick.
            progress: show a progress bar.
        """
        self._check_open()

        def send(rows: list[Any]) -> Completion:
            return self._push(to_rows(rows), from_stream=True)

        return Feed(source, send, rate=rate, speed=speed, every=every, progress=progress,
                    name=self.name)  # fmt: skip

    def flush(self, timeout: float | None = None) -> int:
        """Block until everything queued so far is visible; returns the version."""
        last = self.ingest.ticks.last(from_stream=True)
        if last is not None:
            last.join(timeout)
        if self.error is not None:
            raise self.error
        return self.version

    def retry(self) -> None:
        """Go on ingesting after a fault, from the row where it stopped."""
        self.engine.call(lambda: self.engine.ingestion.retry(self.ingest))
        self.engine.wake()

    def _push(self, rows: Sequence[Any], *, from_stream: bool) -> Tick:
        self._check_open()
        with self.engine.push_lock(self.ingest):
            columns = self.schema.columns
            try:
                return self._queue(rows, from_stream)
            except WorkbenchError:
                self.schema.columns = columns  # rows that were not taken fix no columns
                raise

    def _queue(self, rows: Sequence[Any], from_stream: bool) -> Tick:
        ids, starts = self.engine.tokens.rows(self._render(rows))
        self._check_room(len(ids), len(rows))
        tick = Tick(ids, len(rows), from_stream=from_stream, row_starts=starts)
        if not ids:
            tick.version = self.version
            tick.finish()
            return tick
        dropped = self.ingest.ticks.put(tick)
        self.engine.wake()
        pending = self.pending_rows
        if dropped:
            self.engine.events.emit(RowsDropped(session=self.name, rows=dropped))
        self.engine.events.emit(
            Pushed(session=self.name, rows=len(rows), tokens=len(ids), pending_rows=pending)
        )
        return tick

    def _check_room(self, num_tokens: int, num_rows: int) -> None:
        """Refuse what could never be ingested, before any of it is queued."""
        used, window = self.ingest.ticks.accepted_tokens, self.ingest.window
        need = f"session {self.name!r} needs {num_tokens:,} cells for {num_rows:,} rows"
        if window is None:
            if used + num_tokens > self.budget:
                msg = (
                    f"{need}, {self.budget - used:,} of its {self.budget:,} are left; open it "
                    "with more cells or with overflow='rebuild', or close it and start a new one"
                )
                raise CellsExhausted(msg)
            return
        most = self.ingest.capacity - window.rows.head
        if num_tokens > most:
            msg = f"{need} in one tick, its window holds {most:,}; push fewer rows at a time"
            raise CellsExhausted(msg)
        positions = self.engine.decoder.max_positions
        if window.overflow == "evict" and used + num_tokens > positions:
            msg = (
                f"{need}, and overflow='evict' keeps positions: {positions - used:,} of the "
                f"model's {positions:,} are left; use overflow='rebuild', or start a new session"
            )
            raise CellsExhausted(msg)

    def _render(self, rows: Sequence[Any]) -> list[str]:
        """Each row as the text the model reads, its newline included."""
        if rows and isinstance(rows[0], str):
            for index, row in enumerate(rows):
                if not row.strip():
                    msg = f"row {index}: the text is empty; expected some words"
                    raise RowError(msg)
            return [row if row.endswith("\n") else row + "\n" for row in rows]
        return [line + "\n" for line in self.schema.render(list(rows)).split("\n")[:-1]]

    # Questions.

    def ask(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        at: Moment | int | None = None,
        fresh: bool = True,
        timeout: float | None = None,
    ) -> Answer:
        """Ask, and wait for the complete answer.

        The question sees every row this session was pushed before it. Rows that a background
        stream has queued are not waited for: an answer under load is as of the newest version.

        Args:
            question: the words; it leaves no trace in the session.
            choices: closed answers; all are scored in one forward, and the answer carries a
                probability for each.
            max_tokens, stop: where an open answer ends.
            temperature, top_p, seed: 0 is greedy; a seed makes sampling repeatable.
            at: as of an earlier moment: ``wb.row(500)`` (or 500) after the first 500 rows,
                ``wb.row(-10)`` ten rows ago, ``wb.version(12)``. The session's cells are read as
                they were then: nothing is computed again.
            fresh: False answers at once, as of the newest version, whatever was pushed since.
            timeout: seconds to wait before giving up (the question is cancelled).

        Raises:
            QuestionError, CellsExhausted: it cannot be asked like this. SessionClosed,
            SessionFaulted, EngineClosed: nor of this session. TimeoutError: see ``timeout``.
        """
        answer = self.ask_start(
            question, choices=choices, max_tokens=max_tokens, stop=stop, temperature=temperature,
            top_p=top_p, seed=seed, at=at, fresh=fresh,
        )  # fmt: skip
        try:
            return answer.result(timeout)
        except TimeoutError:
            answer.cancel()
            raise

    async def ask_async(self, question: str, **options: Any) -> Answer:
        """`ask` for a coroutine; cancelling the coroutine cancels the question."""
        timeout = options.pop("timeout", None)
        answer = self.ask_start(question, **options)
        if timeout is None:
            return await answer
        import asyncio

        return await asyncio.wait_for(answer._result(), timeout)

    def ask_start(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        at: Moment | int | None = None,
        fresh: bool = True,
    ) -> Answer:
        """Ask, and return at once with an `Answer` to iterate, await, or cancel."""
        asked_at = time.perf_counter()
        self._check_open()
        sampling = Sampling(max_tokens, stops(stop), temperature, top_p, seed)
        closed, then = closed_answers(choices), moment(at)
        pushed = self.ingest.ticks.last(from_stream=False) if fresh else None
        if then is not None and self.ingest.has_come(then):
            pushed = None
        if pushed is None and then is None:
            for query in self.flash_queries:
                if query.is_fresh and query.matches(question, closed, sampling):
                    assert query.answer is not None
                    served = query.answer.served(asked_at)
                    self.engine.events.emit(answered(served))
                    return served
        answer = Answer(question, self.name)
        answer.asked_at, answer.at = asked_at, then
        work = Question(
            self.engine.core.next_id(), Kind.QUESTION, self.ingest, answer, self._words(question),
            sampling, [self.engine.tokens.choice(c) for c in closed], list(closed), after=pushed,
            at=then,
        )  # fmt: skip
        answer.asks_with(work.ids, lambda: self._cancel(work.work))
        self.engine.post(lambda: self.engine.questions.add(work))
        return answer

    def flash(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        on_change: Callable[[FlashQuery], Any] | None = None,
        name: str | None = None,
    ) -> FlashQuery:
        """Register a standing question, answered again after each version when there is time.

        An ``ask`` of the same question is served from the fresh answer without a forward.

        Args:
            question, choices, max_tokens, stop: as in `ask`; answers are greedy.
            on_change: called with the query, in a thread of its own, when the text changes.
            name: how boards call it; the question's words if None.
        """
        self._check_open()
        closed = closed_answers(choices)
        sampling = Sampling(max_tokens, stops(stop))
        query = FlashQuery(
            name or question, self.ingest, self.engine.board, question, self._words(question),
            closed, [self.engine.tokens.choice(c) for c in closed], sampling, on_change,
        )  # fmt: skip
        self.engine.board.add(query)
        return query

    def backtest(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        every: int = 10,
        start: int | None = None,
        end: int | None = None,
        progress: bool = True,
    ) -> Backtest:
        """Ask one question as of many earlier rows, and wait for all the answers.

        Each answer sees the rows up to its own and nothing later. They are computed in idle time,
        many in a step, from the cells that are there: no row is read again.

        Args:
            question, choices, max_tokens, stop: as in `ask`; answers are greedy.
            every: rows from one moment to the next.
            start, end: the first and the last row to ask as of; None is the first multiple of
                ``every`` that the session still holds, and its newest row.
            progress: show a progress bar.

        Raises:
            QuestionError: it cannot be asked like this. WorkbenchError: what ended it early;
            ``backtest_start`` keeps the answers until then.
        """
        test = self.backtest_start(question, choices=choices, max_tokens=max_tokens, stop=stop,
                                   every=every, start=start, end=end)  # fmt: skip
        if progress:
            _show_progress(test)
        return test.result()

    def backtest_start(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        every: int = 10,
        start: int | None = None,
        end: int | None = None,
    ) -> Backtest:
        """`backtest`, but return at once with a `Backtest` to await, watch, or cancel."""
        self._check_open()
        for name, value in (("every", every), ("start", start), ("end", end)):
            if value is not None and (not isinstance(value, int) or value < 1):
                msg = f"{name}={value!r}: expected a number of rows, 1 or more"
                raise QuestionError(msg)
        sampling, closed = Sampling(max_tokens, stops(stop)), closed_answers(choices)
        test = Backtest(
            self.engine, self.ingest, question, self._words(question), closed,
            [self.engine.tokens.choice(c) for c in closed], sampling, every, start, end,
        )  # fmt: skip
        pushed = self.ingest.ticks.last(from_stream=False)
        if pushed is None:
            self.engine.post(test.begin)
        else:
            pushed.when_done(lambda: test.fail(pushed.error) if pushed.error else test.begin())
        return test

    def ask_stateless(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """The same question with all of the session's tokens computed anew, and none kept.

        What an engine without sessions and without a prefix cache pays, measured in the same
        steps by the same kernels. It takes scratch cells for the whole context.

        Args:
            question, choices, max_tokens, stop, timeout: as in `ask`; it is answered as of the
                newest version.

        Raises:
            CellsExhausted: the context does not fit into the cells kept for questions. Else as
            `ask`.
        """
        answer = self.ask_stateless_start(question, choices=choices, max_tokens=max_tokens,
                                          stop=stop)  # fmt: skip
        try:
            return answer.result(timeout)
        except TimeoutError:
            answer.cancel()
            raise

    def ask_stateless_start(
        self,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        max_tokens: int = 32,
        stop: str | Sequence[str] | None = None,
    ) -> Answer:
        """`ask_stateless`, but return at once with an `Answer` to iterate, await, or cancel."""
        answer = Answer(question, self.name)
        self._check_open()
        sampling, closed = Sampling(max_tokens, stops(stop)), closed_answers(choices)
        words = self._words(question)
        context = self.engine.call(self.ingest.visible)
        work = Question(
            self.engine.core.next_id(), Kind.QUESTION, None, answer, [*context, *words], sampling,
            [self.engine.tokens.choice(c) for c in closed], list(closed), reuse=False,
        )  # fmt: skip
        answer.stateless, answer.context = True, len(context)
        answer.asks_with(work.ids, lambda: self._cancel(work.work))
        self.engine.post(lambda: self.engine.questions.add(work))
        return answer

    def close(self) -> None:
        """Free its cells; questions and rows still queued end with `SessionClosed`."""
        if self.closed:
            return

        def drop() -> None:
            self.engine.board.forget_session(self.ingest)
            self.engine.admission.close(self.ingest)

        try:
            self.engine.call(drop)
        except EngineClosed:
            return
        finally:
            self.engine.forget(self)
        self.engine.events.emit(SessionClosedEvent(session=self.name))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"Session({self.name!r}, closed)"
        state = "" if self.state == "open" else f", {self.state}"
        return (
            f"Session({self.name!r}, version {self.version}, {self.rows:,} rows, "
            f"{len(self.ingest.line.token_ids):,} of {self.capacity:,} cells, "
            f"{len(self.flash_queries)} flash queries{state})"
        )

    def _words(self, question: str) -> list[int]:
        if not isinstance(question, str):
            msg = f"expected the question as text, got {type(question).__name__}"
            raise QuestionError(msg)
        return self.engine.tokens.question(question)

    def _cancel(self, work: int) -> None:
        if not self.engine.closed:
            self.engine.post(lambda: self.engine.questions.cancel(work))

    def _check_open(self) -> None:
        if self.engine.closed:
            msg = "the engine was closed; open a new one with wb.Engine()"
            raise EngineClosed(msg)
        if self.closed:
            msg = f"session {self.name!r} is closed; open it again with engine.open({self.name!r})"
            raise SessionClosed(msg)


def _show_progress(test: Backtest) -> None:
    """A bar that follows a back-test to its end; an interrupt cancels the back-test."""
    from tqdm.auto import tqdm

    try:
        with tqdm(desc="back-test", unit=" rows") as bar:
            while not test.done:
                with contextlib.suppress(TimeoutError, WorkbenchError):
                    test.join(0.1)
                bar.total = test.total
                bar.update(test.answered - bar.n)
    except KeyboardInterrupt:
        test.cancel()
        raise
