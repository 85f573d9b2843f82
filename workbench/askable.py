"""What can be asked of a session: questions, standing ones, back-tests, the same statelessly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.asking import (
    check_not_drawn,
    closed_answers,
    result_of,
    result_of_async,
    stops,
)
from workbench.backtest import Backtest
from workbench.engine.questions import answered
from workbench.engine.sampler import Sampling
from workbench.engine.work import Ingest, Question
from workbench.errors import EngineClosed, QuestionError, SessionClosed, WorkbenchError
from workbench.flash.query import FlashQuery
from workbench.moment import Moment, moment
from workbench.scheduler.scheduler import Kind
from workbench.waiting import check_may_wait, seconds

if TYPE_CHECKING:
    from workbench.front import Engine


class Askable:
    """The questions of a `Session`; what it holds and takes in is in `session`."""

    def __init__(self, engine: Engine, ingest: Ingest) -> None:
        self.engine = engine
        self.ingest = ingest

    @property
    def name(self) -> str:
        """The name it was opened with."""
        return self.ingest.name

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self.ingest.closed

    @property
    def flash_queries(self) -> list[FlashQuery]:
        """Its standing questions, in the order they were registered."""
        return self.engine.board.of(self.ingest)

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
                probability for each. Where one begins another ("1", "10"), each is scored with the
                end of the reply.
            max_tokens, stop: where an open answer ends.
            temperature, top_p, seed: 0 is greedy; a seed makes sampling repeatable. Choices are
                scored, never drawn, and take none of these.
            at: as of an earlier moment: ``wb.row(500)`` (or 500) after the first 500 rows,
                ``wb.row(-10)`` ten rows ago, ``wb.version(12)``. The session's cells are read as
                they were then: nothing is computed again.
            fresh: False answers at once, as of the newest version, whatever was pushed since.
            timeout: seconds to wait before giving up (the question is cancelled).

        Raises:
            QuestionError, CellsExhausted: it cannot be asked like this. SessionClosed,
            SessionFaulted, EngineClosed: nor of this session. TimeoutError: see ``timeout``.
        """
        timeout = seconds(timeout)
        answer = self.ask_start(
            question, choices=choices, max_tokens=max_tokens, stop=stop, temperature=temperature,
            top_p=top_p, seed=seed, at=at, fresh=fresh,
        )  # fmt: skip
        return result_of(answer, timeout)

    async def ask_async(self, question: str, **options: Any) -> Answer:
        """`ask` for a coroutine; cancelling the coroutine cancels the question."""
        timeout = seconds(options.pop("timeout", None))
        answer = self.ask_start(question, **options)
        return await result_of_async(answer, timeout)

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
        check_not_drawn(closed, sampling)
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
            sampling, self.engine.tokens.choices(closed), list(closed), after=pushed,
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
            closed, self.engine.tokens.choices(closed), sampling, on_change,
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
            if value is not None and (not isinstance(value, Integral) or value < 1):
                msg = f"{name}={value!r}: expected a number of rows, 1 or more"
                raise QuestionError(msg)
        sampling, closed = Sampling(max_tokens, stops(stop)), closed_answers(choices)
        test = Backtest(
            self.engine, self.ingest, question, self._words(question), closed,
            self.engine.tokens.choices(closed), sampling, int(every),
            None if start is None else int(start), None if end is None else int(end),
        )  # fmt: skip
        test.begin_after(self.ingest.ticks.last(from_stream=False))
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
        timeout = seconds(timeout)
        answer = self.ask_stateless_start(question, choices=choices, max_tokens=max_tokens,
                                          stop=stop)  # fmt: skip
        return result_of(answer, timeout)

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
        context, now = self.engine.call(lambda: (self.ingest.visible(), self.ingest.now))
        work = Question(
            self.engine.core.next_id(), Kind.QUESTION, None, answer, [*context, *words], sampling,
            self.engine.tokens.choices(closed), list(closed), as_of=now, reuse=False,
        )  # fmt: skip
        answer.stateless, answer.context = True, len(context)
        answer.asks_with(work.ids, lambda: self._cancel(work.work))
        self.engine.post(lambda: self.engine.questions.add(work))
        return answer

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

    check_may_wait()
    try:
        with tqdm(desc="back-test", unit=" rows") as bar:
            while not test.done:
                with contextlib.suppress(TimeoutError, WorkbenchError):
                    test.join(0.1)
                if test.total and bar.total != test.total:
                    bar.reset(total=test.total)  # a notebook's bar takes its width from this alone
                bar.update(test.answered - bar.n)
    except KeyboardInterrupt:
        test.cancel()
        raise
