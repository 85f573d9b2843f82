"""One question asked as of many earlier moments: what would have been answered then?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.engine.engine import StepEngine
from workbench.engine.sampler import Sampling
from workbench.engine.work import Ingest, Question
from workbench.errors import Cancelled, QuestionError, TickDropped
from workbench.moment import row
from workbench.scheduler.scheduler import Kind
from workbench.tick import Tick
from workbench.waiting import Completion

if TYPE_CHECKING:
    import polars as pl

IN_FLIGHT = 32  # evaluations under way: enough to fill steps, few enough to let others in between


class Backtest(Completion):
    """One question's answers as of many rows; made by `Session.backtest`.

    Evaluations run in idle time like flash queries, many in a step: they read the session's cells
    as they are, cut at each moment, so nothing is computed again. ``result()`` or ``await`` it for
    the whole; ``cancel()`` keeps what has been answered.

    Attributes:
        question, choices: what was asked.
        session_name: of which session.
        answers: the complete answers by row, in the order of the rows.
        total: how many moments there are; 0 until the rows pushed before it are visible.
        finish_reason: "done", "cancelled" or "error"; None while under way.
        error: why it ended early, if it did.
    """

    def __init__(
        self,
        engine: StepEngine,
        session: Ingest,
        question: str,
        question_ids: list[int],
        choices: tuple[str, ...],
        choice_ids: list[list[int]],
        sampling: Sampling,
        every: int,
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        super().__init__()
        self.question = question
        self.choices = choices
        self.session_name = session.name
        self.total = 0
        self.finish_reason: str | None = None
        self._engine, self._session = engine, session
        self._question_ids, self._choice_ids, self._sampling = question_ids, choice_ids, sampling
        self._every, self._start, self._last = every, start, end
        self._rows = range(0)
        self._next = 0
        self._running: dict[int, Question] = {}
        self._answered: dict[int, Answer] = {}

    @property
    def answers(self) -> list[Answer]:
        """The complete answers, in the order of the rows."""
        return [answer for _, answer in sorted(self._answered.copy().items())]

    @property
    def answered(self) -> int:
        """How many moments have an answer."""
        return len(self._answered)

    @property
    def frame(self) -> pl.DataFrame:
        """One row per answer: row, version, position, text, choice, confidence, total_ms.

        A closed question adds one probability column ``p_<choice>`` each, before ``total_ms``.
        Join it with the data on ``row`` (rows count from 1) to judge the answers.
        """
        import polars as pl

        answers = self.answers
        schema: dict[str, Any] = {
            "row": pl.Int64, "version": pl.Int64, "position": pl.Int64, "text": pl.String,
            "choice": pl.String, "confidence": pl.Float64,
        }  # fmt: skip
        columns: dict[str, list[Any]] = {
            name: [getattr(answer, name) for answer in answers] for name in schema
        }
        for choice in self.choices:
            schema[f"p_{choice}"] = pl.Float64
            columns[f"p_{choice}"] = [answer.probabilities[choice] for answer in answers]
        schema["total_ms"] = pl.Float64
        columns["total_ms"] = [answer.total_ms for answer in answers]
        return pl.DataFrame(columns, schema=schema)

    def counts(self) -> dict[str, int]:
        """How often each answer was given; a closed question's in the order of its choices."""
        counted = Counter(answer.text for answer in self.answers)
        if self.choices:
            return {choice: counted[choice] for choice in self.choices}
        return dict(counted.most_common())

    def result(self, timeout: float | None = None) -> Backtest:
        """Block until it is complete; an interrupt cancels it and keeps what has been answered.

        Raises:
            TimeoutError: not complete after ``timeout`` seconds; it goes on.
            WorkbenchError: what went wrong, `Cancelled` included.
        """
        try:
            self.join(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self

    def cancel(self) -> None:
        """Stop at the next step; ``answers`` keeps what has arrived. Safe at any time."""
        if not self.done and not self._engine.closed:
            self._engine.post(self._end_early)

    def __await__(self) -> Generator[Any, None, Backtest]:
        return self._result().__await__()

    def __repr__(self) -> str:
        state = "under way" if self.finish_reason is None else self.finish_reason
        if self.finish_reason == "error":
            state = f"error: {self.error}"
        of = f" of {self.total:,}" if self.answered < self.total or not self.total else ""
        said = ", ".join(f"{text!r} {n:,}" for text, n in list(self.counts().items())[:4])
        return f"Backtest({self.question!r}, {self.answered:,}{of} answers: {said}; {state})"

    def begin_after(self, pushed: Tick | None) -> None:
        """Begin once a tick is visible; at the next step if there is none to wait for."""
        if pushed is None:
            self._engine.post(self._begin)
        else:
            pushed.when_done(lambda: self._pushed(pushed))

    def _pushed(self, tick: Tick) -> None:
        """A tick has ended: newer rows in the place of dropped ones are waited for."""
        if isinstance(tick.error, TickDropped | Cancelled):
            self.begin_after(self._session.ticks.last(from_stream=False))
        else:
            self._go_on(self._begin, tick.error)

    def _end_early(self) -> None:
        answers = f"{self.answered} answer{'s' * (self.answered != 1)}"
        error = Cancelled(f"cancelled after {answers}; what was answered is kept")
        self._end("cancelled", error)

    def _go_on(self, step: Callable[[], None], error: BaseException | None = None) -> None:
        """Do this in the engine thread, between two steps; any thread may say so."""
        try:
            if error is not None:
                raise error
            self._engine.post(step)
        except Exception as reason:
            self._end("error", reason)

    # In the engine thread.

    def _begin(self) -> None:
        """The rows pushed before it are visible: fix the moments and ask the first of them."""
        if self.done:
            return
        gone, newest = self._session.first_row, self._session.now.rows
        multiple = max(1, -(-(gone + 1) // self._every)) * self._every
        first = multiple if self._start is None else self._start
        last = newest if self._last is None else self._last
        rows = range(first, last + 1, self._every)
        if not rows or not gone < first <= last <= newest:
            msg = (
                f"back-test of session {self.session_name!r} every {self._every:,} rows from row "
                f"{first:,} to {last:,}: expected moments among its rows {gone + 1:,} to "
                f"{newest:,}; push more rows, or change every=, start= or end="
            )
            self._end("error", QuestionError(msg))
            return
        self._rows, self.total = rows, len(rows)
        self._fill()

    def _fill(self) -> None:
        """Keep so many under way that steps are full, and flash queries are not kept waiting."""
        while not self.done and self._next < self.total and len(self._running) < IN_FLIGHT:
            number = self._rows[self._next]
            self._next += 1
            self._ask(number)
        if not self.done and not self._running and self._next == self.total:
            self._end("done", None)

    def _ask(self, number: int) -> None:
        answer = Answer(self.question, self.session_name)
        question = Question(
            self._engine.core.next_id(), Kind.FLASH, self._session, answer, self._question_ids,
            self._sampling, self._choice_ids, list(self.choices), at=row(number),
        )  # fmt: skip
        answer.at = question.at
        answer.asks_with(self._question_ids, lambda: None)
        self._running[number] = question
        answer.when_done(lambda: self._ended(number, answer))
        self._engine.questions.add(question)

    def _ended(self, number: int, answer: Answer) -> None:
        if self._running.pop(number, None) is None:
            return  # it was given up
        if answer.error is not None:
            self._end("error", answer.error)
            return
        self._answered[number] = answer
        self._go_on(self._fill)  # not within the step that ended this one

    def _end(self, reason: str, error: BaseException | None) -> None:
        if self.done:
            return
        self.finish_reason = reason
        running, self._running = self._running, {}
        for question in running.values():
            self._engine.questions.cancel(question.work)
        self.finish(error)
