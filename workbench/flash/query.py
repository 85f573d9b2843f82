"""One flash query: what is asked, the latest answer, and all the earlier ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.answer import Answer
from workbench.engine.sampler import Sampling
from workbench.engine.work import Ingest
from workbench.errors import QuestionError, SessionClosed
from workbench.waiting import check_may_wait, seconds

if TYPE_CHECKING:
    import polars as pl

    from workbench.flash.board import FlashBoard

KEPT = 500  # answers kept whole per query, with all that recomputing them takes
HISTORY = 10_000  # and what a row of the history says of them


class Past(NamedTuple):
    """What stays of an answer for the history."""

    version: int
    position: int
    row: int
    text: str
    choice: str | None
    confidence: float
    total_ms: float
    time: float
    chances: tuple[float, ...]

    @classmethod
    def of(cls, answer: Answer) -> Past:
        """The row of a complete answer."""
        return cls(
            answer.version, answer.position, answer.row, answer.text, answer.choice,
            answer.confidence, answer.total_ms, answer.time, tuple(answer.probabilities.values()),
        )  # fmt: skip


class FlashQuery:
    """A standing question over one session.

    Attributes:
        name, question, choices: what was registered.
        answer: the latest complete `Answer`, or None before the first.
        evaluations, dropped: how many evaluations ended, and how many were given up since newer
            data had come.
        error: why the latest evaluation failed, if it did; the next version tries again.
        paused: whether it is left alone.
    """

    def __init__(
        self,
        name: str,
        session: Ingest,
        board: FlashBoard,
        question: str,
        question_ids: list[int],
        choices: tuple[str, ...],
        choice_ids: list[list[int]],
        sampling: Sampling,
        on_change: Callable[[FlashQuery], Any] | None,
    ) -> None:
        self.name = name
        self.question = question
        self.choices = choices
        self.answer: Answer | None = None
        self.evaluations = 0
        self.dropped = 0
        self.error: BaseException | None = None
        self.paused = False
        self.removed = False
        self.on_change = on_change
        self.question_ids, self.choice_ids, self.sampling = question_ids, choice_ids, sampling
        self.session = session
        self._board = board
        self._answers: deque[Answer] = deque(maxlen=KEPT)
        self._history: deque[Past] = deque(maxlen=HISTORY)
        self._changed = threading.Condition()

    @property
    def version(self) -> int:
        """The version the latest answer is as of; -1 before the first."""
        return self.answer.version if self.answer is not None else -1

    @property
    def age(self) -> int:
        """How many ticks the latest answer is behind the session."""
        return self.session.now.version - max(self.version, 0)

    @property
    def is_fresh(self) -> bool:
        """Whether the latest answer is as of the session's newest version, over all it holds.

        A window that has left rows behind since has another content under the same version.
        """
        answer, session = self.answer, self.session
        if answer is None or answer.version != session.now.version:
            return False
        return answer.context == session.context

    @property
    def answers(self) -> list[Answer]:
        """The latest answers, oldest first (500 at most; `history` goes back further)."""
        return list(self._answers)

    @property
    def history(self) -> pl.DataFrame:
        """One row per answer: version, position, row, text, choice, confidence, total_ms, time.

        The last 10,000 of them. ``time`` is UTC. A closed question adds one probability column
        ``p_<choice>`` each.
        """
        import polars as pl

        schema: dict[str, Any] = {
            "version": pl.Int64, "position": pl.Int64, "row": pl.Int64, "text": pl.String,
            "choice": pl.String, "confidence": pl.Float64, "total_ms": pl.Float64,
            "time": pl.Float64,
        }  # fmt: skip
        rows = list(self._history)
        columns: dict[str, list[Any]] = {
            name: [getattr(past, name) for past in rows] for name in schema
        }
        for place, choice in enumerate(self.choices):
            schema[f"p_{choice}"] = pl.Float64
            columns[f"p_{choice}"] = [past.chances[place] for past in rows]
        frame = pl.DataFrame(columns, schema=schema)
        return frame.with_columns(
            pl.from_epoch((pl.col("time") * 1e6).cast(pl.Int64), time_unit="us")
        )

    def matches(self, question: str, choices: tuple[str, ...], sampling: Sampling) -> bool:
        """Whether an ask with these options would get just this query's latest answer."""
        if self.answer is None or question != self.question or choices != self.choices:
            return False
        if choices:
            return True
        if sampling.temperature > 0 or sampling.stop != self.sampling.stop:
            return False
        if sampling.max_tokens == self.sampling.max_tokens:
            return True
        # An answer that ended by itself does not depend on how much longer it might have been.
        ended = self.answer.finish_reason == "stop"
        return ended and len(self.answer.token_ids) <= sampling.max_tokens

    def wait(self, timeout: float | None = None) -> Answer:
        """Block until there is an answer as of the version visible now, or a newer one.

        Before any row it waits for the first one.

        Raises:
            TimeoutError: there is none after ``timeout`` seconds. SessionClosed: there will be
            none. QuestionError: it is paused. The evaluation's own error, if it failed.
        """
        target = max(1, self.session.now.version)

        def ready() -> bool:
            gone = self.removed or self.session.closed or self._rests
            return self.version >= target or gone or self.error is not None

        if not ready():
            check_may_wait()
        with self._changed:
            if not self._changed.wait_for(ready, seconds(timeout)):
                msg = f"flash query {self.name!r} has no answer after {timeout} s; it goes on"
                raise TimeoutError(msg)
        if self.answer is not None and self.version >= target:
            return self.answer
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self._rests and not (self.removed or self.session.closed):
            msg = f"flash query {self.name!r} is paused; query.resume() goes on"
            raise QuestionError(msg)
        end = "its session is closed" if self.session.closed else "it was removed"
        msg = f"flash query {self.name!r} will have no newer answer: {end}"
        raise SessionClosed(msg)

    def notify(self) -> None:
        """Wake whoever waits: something about the query has changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def _rests(self) -> bool:
        """Whether it is paused, and nothing of it under way any more."""
        return self.paused and not self._board.evaluates(self)

    def pause(self) -> None:
        """Stop evaluating it; the latest answer stays and ages. What is under way is finished."""
        self.paused = True
        self.notify()

    def resume(self) -> None:
        """Evaluate it again, now and after every version."""
        self.paused = False
        self._board.refresh_soon(self)

    def remove(self) -> None:
        """Forget it; the object keeps its history."""
        self.removed = True
        self.notify()
        self._board.remove(self)

    def record(self, answer: Answer) -> bool:
        """Take a complete answer; true if its text is another than the one before."""
        changed = self.answer is None or self.answer.text != answer.text
        self.answer = answer
        self._answers.append(answer)
        self._history.append(Past.of(answer))
        self.evaluations += 1
        self.error = None
        self.notify()
        return changed

    def __repr__(self) -> str:
        if self.answer is None:
            return f"FlashQuery({self.question!r}, no answer yet)"
        behind = "fresh" if self.is_fresh else f"{self.age} ticks old"
        return (
            f"FlashQuery({self.question!r}: {self.answer.text!r}, "
            f"confidence {self.answer.confidence:.2f}, {behind})"
        )
