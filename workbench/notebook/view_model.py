"""An engine and its events as plain values to show; knows nothing of widgets.

`Watch` takes events and keeps a bounded number of them; `flash_rows`, `Watch.session_rows` and
`Watch.engine_line` are what the flash board and the session monitor show at one moment.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.answer import Answer
from workbench.events import Committed, Event, Planned, SessionOpened
from workbench.flash.query import FlashQuery
from workbench.notebook.markup import COLOURS, milliseconds

if TYPE_CHECKING:
    from workbench.front import Engine
    from workbench.session import Session

PAST = 48  # past answers in a strip
WINDOW_S = 5.0  # rates and worst lags are over the last so many seconds
BUCKET_S = 0.25  # what happened within so long is kept as one sum


@dataclass(frozen=True)
class PastAnswer:
    """An earlier answer of a flash query; equal texts have equal shades."""

    shade: int
    choice: int  # its place among the choices; -1 for an open answer
    confidence: float
    chances: tuple[float, ...]


@dataclass(frozen=True)
class Answers:
    """What a flash query has answered: the newest, how often its text changed, and the past."""

    text: str | None = None
    choice: int = -1
    confidence: float = math.nan
    chances: tuple[float, ...] = ()
    version: int = -1
    total_ms: float = math.nan
    evaluations: int = 0
    changes: int = 0
    past: tuple[PastAnswer, ...] = ()


@dataclass(frozen=True)
class FlashRow:
    """One line of the flash board; ``age`` in ticks, ``error`` why the latest evaluation failed."""

    session: str
    name: str
    question: str
    choices: tuple[str, ...]
    answers: Answers
    age: int
    dropped: int
    paused: bool
    error: str
    state: str  # the session's, where it is not just open


@dataclass(frozen=True)
class SessionRow:
    """One line per session; sizes in tokens and rows, lags in milliseconds from push to visible."""

    name: str
    colour: int
    tokens: int
    capacity: int
    overflow: str
    rows: int
    rows_rate: float
    version: int
    waiting: int
    dropped: int
    lag_ms: float
    worst_lag_ms: float
    state: str
    detail: str


@dataclass(frozen=True)
class EngineLine:
    """What the engine as a whole is doing; rates are per second."""

    model: str
    dtype: str
    device: str
    free_cells: int
    num_cells: int
    ingest_rate: float
    step_rate: float
    answers: int
    flash_hits: int


class Recent:
    """Sums and the largest of what was counted in the last seconds, in bounded memory."""

    def __init__(self) -> None:
        """Have counted nothing."""
        self._buckets: deque[list[float]] = deque(maxlen=round(WINDOW_S / BUCKET_S) + 1)

    def add(self, time: float, amount: float) -> None:
        """Count ``amount`` at this time."""
        start = math.floor(time / BUCKET_S) * BUCKET_S
        if not self._buckets or start > self._buckets[-1][0]:
            self._buckets.append([start, 0.0, -math.inf])
        newest = self._buckets[-1]
        newest[1] += amount
        newest[2] = max(newest[2], amount)

    def rate(self, now: float) -> float:
        """The sum of the last seconds, per second."""
        recent = (amount for start, amount, _ in self._buckets if start > now - WINDOW_S)
        return sum(recent) / WINDOW_S

    def worst(self, now: float) -> float:
        """The largest of the last seconds; nan of nothing."""
        recent = (most for start, _, most in self._buckets if start > now - WINDOW_S)
        return max(recent, default=math.nan)


class Colours:
    """The colour of each session, by number: it stays while the session is open."""

    def __init__(self) -> None:
        """Have given none."""
        self._of: dict[str, int] = {}
        self._lock = threading.Lock()  # dashboards draw in threads of their own

    def of(self, names: Iterable[str]) -> dict[str, int]:
        """The colours of the sessions open now; new ones take the lowest that are free."""
        open_now = dict.fromkeys(names)
        with self._lock:
            self._of = {name: colour for name, colour in self._of.items() if name in open_now}
            taken = set(self._of.values())
            free = (colour for colour in itertools.count() if colour not in taken)
            for name in open_now:
                if name not in self._of:
                    self._of[name] = next(free)
            return {name: self._of[name] for name in open_now}


_colours: weakref.WeakKeyDictionary[Engine, Colours] = weakref.WeakKeyDictionary()


def session_colours(engine: Engine) -> dict[str, int]:
    """The colour of each open session, the same in all that shows this engine."""
    return _colours.setdefault(engine, Colours()).of(engine.sessions)


@dataclass
class _Commits:
    """What a session's ticks have told."""

    rows: int = 0
    lag_ms: float = math.nan
    rate: Recent = field(default_factory=Recent)
    lags: Recent = field(default_factory=Recent)


class Watch:
    """Events in, values out; memory is bounded however long it watches."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._steps, self._tokens = Recent(), Recent()
        self._commits: dict[str, _Commits] = {}

    def take(self, event: Event) -> None:
        """Note one event."""
        match event:
            case Planned():
                self._steps.add(event.time, 1)
                self._tokens.add(event.time, event.ingest)
            case SessionOpened():
                self._commits[event.session or ""] = _Commits(event.rows)
            case Committed():
                seen = self._commits.setdefault(event.session or "", _Commits(event.rows))
                seen.rate.add(event.time, max(0, event.rows - seen.rows))
                seen.rows, seen.lag_ms = event.rows, 1e3 * event.lag_s
                seen.lags.add(event.time, seen.lag_ms)
            case _:
                pass

    def session_rows(self, engine: Engine, now: float) -> list[SessionRow]:
        """One line per open session, in the order they were opened; ``now`` as in `Event.time`."""
        sessions = engine.sessions
        for name in self._commits.keys() - sessions.keys():
            del self._commits[name]
        colours = session_colours(engine)
        return [
            self._session_row(session, colours.get(name, 0), now)
            for name, session in sessions.items()
        ]

    def _session_row(self, session: Session, colour: int, now: float) -> SessionRow:
        seen = self._commits.setdefault(session.name, _Commits(session.rows))
        state = session.state
        return SessionRow(
            session.name, colour, session.cells_used, session.capacity, session.overflow,
            session.rows, seen.rate.rate(now), session.version, session.pending_rows,
            session.dropped_rows, seen.lag_ms, seen.lags.worst(now),
            state if state != "open" else "", _detail(session, state),
        )  # fmt: skip

    def engine_line(self, engine: Engine, now: float) -> EngineLine:
        """The engine's own numbers."""
        stats = engine.stats()
        return EngineLine(
            stats.model, stats.dtype, stats.device, stats.free_cells, stats.num_cells,
            self._tokens.rate(now), self._steps.rate(now), stats.answers, stats.flash_hits,
        )  # fmt: skip


def flash_row(session: Session, query: FlashQuery, answers: Answers) -> FlashRow:
    """One flash query as it is, with what `answers_of` said of its answers."""
    return FlashRow(
        session=session.name,
        name=query.name,
        question=query.question,
        choices=query.choices,
        answers=answers,
        age=query.age,
        dropped=query.dropped,
        paused=query.paused,
        error=str(query.error or ""),
        state=session.state if session.state != "open" else "",
    )


def answers_of(query: FlashQuery, before: Answers | None = None) -> Answers:
    """What a query has answered. ``before`` is what this said last: only what is new is looked at.

    ``changes`` counts answers whose text is another than the one before them, from when this was
    first called on; a board marks a row when it grows.
    """
    evaluations = query.evaluations
    if before is not None and before.evaluations == evaluations:
        return before
    answers = query.answers
    if not answers:
        return Answers()
    newest = answers[-1]
    changes = 0
    if before is not None:
        texts = [answer.text for answer in answers[-(evaluations - before.evaluations) :]]
        if before.text is not None:
            texts.insert(0, before.text)
        changes = before.changes + _changes(texts)
    past = tuple(
        PastAnswer(
            zlib.crc32(answer.text.encode()) % len(COLOURS), _place(query, answer),
            answer.confidence, tuple(answer.probabilities.values()),
        )
        for answer in answers[-PAST:]
    )  # fmt: skip
    return Answers(
        newest.text, past[-1].choice, newest.confidence, past[-1].chances, newest.version,
        newest.total_ms, evaluations, changes, past,
    )  # fmt: skip


def _changes(texts: Iterable[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(texts))


def _place(query: FlashQuery, answer: Answer) -> int:
    return query.choices.index(answer.choice) if answer.choice in query.choices else -1


def _detail(session: Session, state: str) -> str:
    """What a state means for whoever reads it."""
    match state:
        case "evicted":
            cost = milliseconds(1e3 * session.return_cost_s)
            return f"others have its cells; about {cost} to return"
        case "waiting":
            return "for its first turn: others have the cells it will need"
        case "behind":
            return "rows come faster than its window can move; they wait"
        case "stands still":
            return str(session.error)
        case _:
            return ""
