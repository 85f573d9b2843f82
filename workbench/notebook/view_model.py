"""An engine and its events as plain values to show; knows nothing of widgets.

`Watch` takes events and keeps a bounded number of them; `flash_rows`, `session_rows` and
`Watch.engine_line` are what a dashboard shows at one moment.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.answer import Answer
from workbench.events import Answered, Committed, Event, FlashAnswered, Planned
from workbench.flash.query import FlashQuery

if TYPE_CHECKING:
    from workbench.front import Engine

KEPT_POINTS = 3000  # answers in the plot; older ones leave
KEPT_STEPS = 2000
KEPT_PAST = 200  # earlier answers of a flash query that a new plot begins with
PAST = 48  # past answers in a strip
WINDOW_S = 5.0  # rates are over the last so many seconds
JUST_NOW_S = 2.0  # how long a changed answer is marked


@dataclass(frozen=True)
class Point:
    """One answer in the plot of latency against context.

    ``kind``: "ask", "choice" (an ask with choices: one forward), "flash hit" (an ask served without
    a forward) or "flash" (an evaluation in the background). ``context`` counts tokens; times are
    milliseconds, ``ttft_ms`` is nan for "flash".
    """

    time: float
    session: str
    kind: str
    context: int
    ttft_ms: float
    total_ms: float


@dataclass(frozen=True)
class PastAnswer:
    """An earlier answer of a flash query; equal texts have equal shades (0 to 5)."""

    shade: int
    choice: int  # its place among the choices; -1 for an open answer
    confidence: float
    chances: tuple[float, ...]


@dataclass(frozen=True)
class FlashRow:
    """One line of the flash board; ``age`` in ticks, ``state`` is empty when all is well."""

    session: str
    name: str
    question: str
    choices: tuple[str, ...]
    text: str | None
    choice: int
    confidence: float
    chances: tuple[float, ...]
    age: int
    version: int
    total_ms: float
    evaluations: int
    changed: bool
    state: str
    past: tuple[PastAnswer, ...]


@dataclass(frozen=True)
class SessionRow:
    """One line per session; sizes in tokens and rows, ``lag_ms`` from push to visible."""

    name: str
    tokens: int
    capacity: int
    overflow: str
    rows: int
    version: int
    waiting: int
    dropped: int
    lag_ms: float
    state: str


@dataclass(frozen=True)
class EngineLine:
    """What the engine as a whole is doing; ``ingest_rate`` in tokens per second."""

    model: str
    dtype: str
    device: str
    sessions: int
    free_cells: int
    num_cells: int
    ingest_rate: float
    answers: int
    flash_hits: int
    evaluations: int
    ttft_ms: float
    state: str


class Watch:
    """Events in, values out; memory is bounded however long it watches."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._points: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._steps: deque[tuple[float, int]] = deque(maxlen=KEPT_STEPS)
        self._lags: dict[str, float] = {}
        self.num_points = 0  # ever, so that a reader sees whether there are new ones

    def take(self, event: Event) -> None:
        """Note one event."""
        match event:
            case Answered():
                kind = "flash hit" if event.from_flash else "choice" if event.choices else "ask"
                self._add(event, kind, event.position, event.ttft_ms, event.total_ms)
            case FlashAnswered():
                self._add(event, "flash", event.position, math.nan, event.total_ms)
            case Planned() if event.ingest:
                self._steps.append((event.time, event.ingest))
            case Committed():
                self._lags[event.session or ""] = 1e3 * event.lag_s
            case _:
                pass

    def remember(self, engine: Engine) -> None:
        """Note the answers that flash queries gave before it began to watch."""
        for session in engine.sessions.values():
            for query in session.flash_queries:
                for answer in query.answers[-KEPT_PAST:]:
                    point = Point(answer.time, session.name, "flash", answer.position, math.nan,
                                  answer.total_ms)  # fmt: skip
                    self._points.append(point)
                    self.num_points += 1

    @property
    def points(self) -> list[Point]:
        """The answers seen, oldest first."""
        return list(self._points)

    def ingest_rate(self, now: float) -> float:
        """Tokens per second that became part of sessions in the last seconds before ``now``."""
        return sum(tokens for time, tokens in self._steps if time > now - WINDOW_S) / WINDOW_S

    def session_rows(self, engine: Engine) -> list[SessionRow]:
        """One line per open session, in the order they were opened."""
        sessions = engine.sessions
        for name in self._lags.keys() - sessions.keys():
            del self._lags[name]
        return [
            SessionRow(
                session.name, session.cells_used, session.capacity, session.overflow,
                session.rows, session.version, session.pending_rows, session.dropped_rows,
                self._lags.get(session.name, math.nan),
                session.state if session.state != "open" else "",
            )
            for session in sessions.values()
        ]  # fmt: skip

    def engine_line(self, engine: Engine, now: float) -> EngineLine:
        """The engine's own numbers."""
        stats = engine.stats()
        return EngineLine(
            stats.model, stats.dtype, stats.device, len(stats.promised_cells), stats.free_cells,
            stats.num_cells, self.ingest_rate(now), stats.answers, stats.flash_hits,
            stats.flash_evaluations, stats.ttft_ms_p50, "closed" if engine.closed else "",
        )  # fmt: skip

    def _add(self, event: Event, kind: str, context: int, ttft: float, total: float) -> None:
        point = Point(event.time, event.session or "", kind, context, ttft, total)
        self._points.append(point)
        self.num_points += 1


def flash_rows(engine: Engine, now: float) -> list[FlashRow]:
    """Every flash query of every open session, at this moment (seconds since the epoch)."""
    return [
        flash_row(session.name, query, now)
        for session in engine.sessions.values()
        for query in session.flash_queries
    ]


def flash_row(session: str, query: FlashQuery, now: float) -> FlashRow:
    """One flash query as it is."""
    answers = query.answers[-PAST - 1 :]
    newest = answers[-1] if answers else None
    changes = (after for before, after in _backwards(answers) if before.text != after.text)
    changed_at = next((answer.time for answer in changes), -math.inf)
    past = [
        PastAnswer(
            zlib.crc32(answer.text.encode()) % 6, _place(query, answer), answer.confidence,
            tuple(answer.probabilities.values()),
        )
        for answer in answers[-PAST:]
    ]  # fmt: skip
    return FlashRow(
        session=session,
        name=query.name,
        question=query.question,
        choices=query.choices,
        text=newest.text if newest is not None else None,
        choice=_place(query, newest) if newest is not None else -1,
        confidence=newest.confidence if newest is not None else math.nan,
        chances=tuple(newest.probabilities.values()) if newest is not None else (),
        age=query.age,
        version=query.version,
        total_ms=newest.total_ms if newest is not None else math.nan,
        evaluations=query.evaluations,
        changed=0 <= now - changed_at < JUST_NOW_S,
        state="failed" if query.error is not None else "paused" if query.paused else "",
        past=tuple(past),
    )


def _place(query: FlashQuery, answer: Answer) -> int:
    return query.choices.index(answer.choice) if answer.choice in query.choices else -1


def _backwards(answers: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    return list(itertools.pairwise(answers))[::-1]
