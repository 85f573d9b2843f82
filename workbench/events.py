"""What happens in an engine, as frozen values, and the small fan-out that carries them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from workbench.errors import warn


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened. ``time`` is in seconds since the epoch, ``session`` a name."""

    session: str | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class SessionOpened(Event):
    """A session was opened with this budget, in cells; a fork and one of a file begin with rows."""

    budget: int
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class SessionClosed(Event):
    """A session was closed and its cells are free."""


@dataclass(frozen=True, kw_only=True)
class Pushed(Event):
    """A tick was queued; ``pending_rows`` wait now, this tick's included."""

    rows: int
    tokens: int
    pending_rows: int


@dataclass(frozen=True, kw_only=True)
class Committed(Event):
    """A tick became visible. ``lag_s``: seconds from push to here; ``rows``: visible in all."""

    version: int
    position: int
    rows: int
    lag_s: float


@dataclass(frozen=True, kw_only=True)
class RowsDropped(Event):
    """A full queue opened with ``on_full='drop_oldest'`` dropped so many rows."""

    rows: int


@dataclass(frozen=True, kw_only=True)
class Faulted(Event):
    """Ingestion failed; the rows stay queued until ``session.retry()``."""

    message: str


class StepShare(NamedTuple):
    """What one session had of a step; ``session`` is "" for stateless requests."""

    session: str
    phase: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Planned(Event):
    """One step ran: tokens by phase, slices in the batch, and seconds it took.

    ``ingest_limit`` is how many tokens ingestion might have taken, and ``limited_by`` why no more:
    "idle" (the whole step was its own), "target" (the step time aimed at while a question is under
    way; ``predicted_s`` is the cost model's) or "floor" (the least that ingestion always gets).
    It began ``duration_s`` before ``time``; ``shares`` says whose tokens they were, by phase:
    "decode", "question", "ingest", "flash" or "background".
    """

    step: int
    decode: int
    question: int
    ingest: int
    flash: int
    num_slices: int
    duration_s: float
    background: int = 0
    predicted_s: float = 0.0
    ingest_limit: int = 0
    limited_by: str = ""
    shares: tuple[StepShare, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenOut(Event):
    """A piece of an answer's text."""

    question: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Answered(Event):
    """A question was answered; times in milliseconds from the ask.

    ``drafted`` tokens were guessed, of which ``accepted`` were right. ``context`` tokens were read
    before the question: computed for it alone where it is ``stateless``, but for ``shared_tokens``
    that a prefix of its prompt had already; kept ones otherwise. An open question has no
    ``choices``.
    """

    question: str
    position: int
    queue_ms: float
    ttft_ms: float
    total_ms: float
    num_tokens: int
    from_flash: bool
    choices: tuple[str, ...]
    drafted: int = 0
    accepted: int = 0
    stateless: bool = False
    context: int = 0
    shared_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class FlashAnswered(Event):
    """A flash query has a new answer, as of ``version``; ``changed``: its text is another one."""

    flash: str
    text: str
    confidence: float
    version: int
    position: int
    total_ms: float
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Shared(Event):
    """So many tokens of a session need no computing: another line's cells hold the same."""

    tokens: int


@dataclass(frozen=True, kw_only=True)
class Behind(Event):
    """Ingestion of a full session waits for its window: rows come faster than it can move."""

    pending_rows: int


@dataclass(frozen=True, kw_only=True)
class Rebuilt(Event):
    """A window was swapped for a newly computed one of so many tokens and rows."""

    tokens: int
    rows: int
    dropped_tokens: int


@dataclass(frozen=True, kw_only=True)
class RowsLeft(Event):
    """The oldest rows left a window whose later keys keep their positions."""

    rows: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Evicted(Event):
    """An idle session's cells went to another; its log stays, and computing it again takes time."""

    tokens: int
    predicted_return_s: float


@dataclass(frozen=True, kw_only=True)
class Returned(Event):
    """An evicted session has its cells again, ``away_s`` seconds after they were taken."""

    tokens: int
    away_s: float


class Events:
    """Hands every event to every subscriber, in the thread that emits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[int, Callable[[Event], None]] = {}
        self._ids = itertools.count()

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``callback(event)`` for each event; returns a function that ends it.

        The engine thread calls it, so it must be quick: put the event on a queue. One that raises
        is unsubscribed and reported on standard error.
        """
        with self._lock:
            key = next(self._ids)
            self._subscribers[key] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Deliver one event."""
        with self._lock:
            subscribers = list(self._subscribers.items())
        for key, callback in subscribers:
            try:
                callback(event)
            except Exception as error:
                with self._lock:
                    self._subscribers.pop(key, None)
                warn(f"an event subscriber raised {error!r} and was unsubscribed")
