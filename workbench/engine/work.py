"""What the engine works on: a session's data plane, a window's rebuild, and a question's branch."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from workbench.answer import Answer
from workbench.cells.history import History, Place
from workbench.cells.line import Line
from workbench.cells.sequence import Sequence
from workbench.cells.window import WindowRows
from workbench.engine.guesses import Guesses
from workbench.engine.sampler import Sampler, Sampling
from workbench.engine.tokens import TextStream
from workbench.errors import QuestionError
from workbench.moment import Moment
from workbench.scheduler.scheduler import Kind
from workbench.tick import Tick, TickQueue

Overflow = Literal["error", "rebuild", "evict"]


class Mark(NamedTuple):
    """A moment of a session: its version, the position after it, and the rows visible so far."""

    version: int
    position: int
    rows: int

    def after(self, tick: Tick) -> Mark:
        """The moment one tick later."""
        return Mark(self.version + 1, self.position + tick.num_tokens, self.rows + tick.rows)


@dataclass(eq=False)
class Rebuild:
    """A session's next window on its way into cells of its own.

    Attributes:
        start: where its first row begins, in everything the session ever read.
        began: how far the session had read when it began.
    """

    work: int
    session: Ingest
    line: Line
    start: int
    began: int


@dataclass(eq=False)
class Retired:
    """Cells a window has left behind, held until the questions that began on them have ended."""

    sequence: Sequence
    readers: set[int]


@dataclass(eq=False)
class Window:
    """What a session does when it is full.

    Attributes:
        overflow: "rebuild" or "evict".
        keep: tokens that stay at least, the prompt's included.
        rows: where its rows begin.
        slack: a rebuild begins when so many cells are left, so that it is done before none is.
        tick: tokens of a tick, of the largest lately: a rebuild leaves room for the next one.
        stalled: whether ingestion waits for the window to move.
    """

    overflow: Overflow
    keep: int
    rows: WindowRows
    slack: int
    tick: float = 0.0
    rebuild: Rebuild | None = None
    retired: list[Retired] = field(default_factory=list)
    stalled: bool = False


@dataclass(eq=False)
class Ingest:
    """A session as the engine sees it: a line, and the ticks that wait to extend it.

    Questions branch at ``now.position``; the line may already be further, inside a tick that is
    not complete.

    Attributes:
        history: where its rows and versions ended.
        head: tokens it begins with, before any row.
        budget: the most cells it may ever hold.
        capacity: the most tokens its line may have (half the budget where the window is rebuilt).
        evictable: whether its cells may be taken while it is idle.
        resident: whether it has cells; if not, ``line`` still has the log.
        leaving: its turn is over: what runs is finished, nothing new begins.
        background: it comes back without anyone having asked, in idle time.
        turn_tokens, since: tokens run for it since it had its cells, and the step it did.
        last_used: the step something of it last ran.
        evicted_at: when its cells were taken (perf_counter), until it is back.
        held: questions that wait for a tick to be visible, or for the cells to come back.
        guesses: what its open questions were answered last.
    """

    work: int
    name: str
    budget: int
    capacity: int
    line: Line
    ticks: TickQueue
    history: History
    head: int = 0
    window: Window | None = None
    evictable: bool = False
    resident: bool = True
    leaving: bool = False
    background: bool = False
    turn_tokens: int = 0
    since: int = 0
    last_used: int = 0
    evicted_at: float | None = None
    now: Mark = field(default_factory=lambda: Mark(0, 0, 0))
    questions: dict[int, Question] = field(default_factory=dict)
    held: list[Question] = field(default_factory=list)
    guesses: Guesses = field(default_factory=Guesses)
    error: BaseException | None = None
    closed: bool = False

    @property
    def sequence(self) -> Sequence:
        """The cells of the line."""
        return self.line.sequence

    @property
    def ready(self) -> bool:
        """Whether a question can branch off it: everything visible is in cells."""
        return self.resident and not self.leaving and self.line.pending == 0

    @property
    def busy(self) -> bool:
        """Whether somebody waits for something of it; a faulted one waits for its owner.

        Having been evicted is no reason to come back, and nor is coming back in idle time.
        """
        coming = self.resident and self.line.pending > 0 and not self.background
        data = self.error is None and (self.ticks.tokens > 0 or coming)
        return bool(self.questions) or data

    def as_of(self, moment: Moment | None) -> Mark:
        """A moment of it, as a question's branch begins there; None is the present.

        Raises:
            QuestionError: it has not come, has left the window, or lies inside a token.
        """
        if moment is None:
            return self.now
        newest = self.now.rows if moment.unit == "row" else self.now.version
        number = moment.number if moment.number >= 0 else newest + moment.number
        if not 0 <= number <= newest:
            msg = (
                f"at={moment}: session {self.name!r} goes from row 0 to {self.now.rows:,}, "
                f"version 0 to {self.now.version:,}; expected one of them"
            )
            raise QuestionError(msg)
        history = self.history
        found = history.row(number) if moment.unit == "row" else history.at_version(number)
        if found is not None and not self._has_left(found):
            return Mark(found.version, found.place - self._moved, found.rows)
        if found is None and moment.unit == "row" and history.has_row(number):
            msg = (
                f"at={moment}: the row ends inside a token of this model's tokenizer; expected the "
                "last row of a tick, or wb.version(n)"
            )
            raise QuestionError(msg)
        msg = (
            f"at={moment}: those rows have left the window of session {self.name!r}, which holds "
            "its latest ones; ask as of a later moment, or open it with a larger window"
        )
        raise QuestionError(msg)

    def has_come(self, moment: Moment) -> bool:
        """Whether a moment counted from the beginning is visible already."""
        newest = self.now.rows if moment.unit == "row" else self.now.version
        return 0 <= moment.number <= newest

    @property
    def context(self) -> int:
        """How many tokens a question reads before its own."""
        return self.now.position - self.sequence.gap

    def visible(self) -> list[int]:
        """The tokens that a question reads before its own."""
        return list(self.line.token_ids[: self.context])

    @property
    def first_row(self) -> int:
        """How many rows have left its window: the first that an answer can see comes next."""
        if self.window is None:
            return 0
        return max(0, self.now.rows - len(self.window.rows))

    @property
    def _moved(self) -> int:
        """By how much what was read lies earlier now, since older rows left a rebuilt window."""
        rebuilt = self.window is not None and self.window.overflow == "rebuild"
        return self.window.rows.left if self.window is not None and rebuilt else 0

    def _has_left(self, found: Place) -> bool:
        rows = self.window.rows if self.window is not None else None
        return rows is not None and rows.left > 0 and found.place <= rows.left + rows.head

    def begun(self) -> set[int]:
        """The questions that read its cells now."""
        return {work for work, question in self.questions.items() if question.branch is not None}


@dataclass(eq=False)
class Question:
    """One question, flash evaluation or stateless request, from the ask to the last token.

    A stateless request has no session: ``ids`` is its whole prompt, on a ``line`` of its own;
    unless ``reuse``, it computes all of it, whoever has computed the same.
    """

    work: int
    kind: Kind
    session: Ingest | None
    answer: Answer
    ids: list[int]
    sampling: Sampling
    choices: list[list[int]] = field(default_factory=list)
    choice_texts: list[str] = field(default_factory=list)
    after: Tick | None = None  # not before this tick is visible
    at: Moment | None = None  # as of an earlier moment
    as_of: Mark | None = None  # what a stateless request's prompt holds of a session
    start: int = 0  # the position of its first token
    line: Line | None = None
    reuse: bool = True
    branch: Sequence | None = None
    choice_branches: list[Sequence] = field(default_factory=list)
    sampler: Sampler | None = None
    stream: TextStream | None = None
    drafts: Seq[int] = ()
    guess: Seq[int] = ()  # how an open answer may well begin; verified with the question's end

    @property
    def awaited(self) -> Tick | None:
        """The tick that is not visible yet and that it is to see."""
        return None if self.after is None else self.after.awaited()

    @property
    def tail(self) -> int:
        """Tokens that must run in one step: the question's last, and the choices or the guess that
        follow it."""
        return 1 + len(self.guess) + sum(len(ids) - 1 for ids in self.choices)

    @property
    def prefill(self) -> int:
        """Tokens to run before the first result."""
        return len(self.ids) + self.tail - 1

    @property
    def cells(self) -> int:
        """Scratch cells it can ever need: the last sampled token is never run."""
        return self.prefill if self.choices else len(self.ids) + self.sampling.max_tokens - 1

    @property
    def tokens_left(self) -> int:
        """How many more tokens the answer may have."""
        return self.sampling.max_tokens - len(self.answer.token_ids)
