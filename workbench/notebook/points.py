"""Answers as points of time against context: what is kept of them, and the frame they make."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.answer import Answer
from workbench.events import Answered, Event, FlashAnswered

if TYPE_CHECKING:
    import polars as pl

    from workbench.front import Engine

KINDS = ("ask", "choice", "flash hit", "flash", "stateless", "prefix hit")
KEPT_POINTS = 3000  # of each kind; older ones leave
KEPT_PAST = 200  # earlier answers of a flash query that a new log begins with


@dataclass(frozen=True)
class Point:
    """One answer in the plot of latency against context.

    ``kind``: "ask", "choice" (an ask with choices: one forward), "flash hit" (an ask served without
    a forward), "flash" (an evaluation in the background), "stateless" (all tokens computed for it)
    or "prefix hit" (a prompt without a session, part of which was computed already). ``context``
    counts tokens; times are milliseconds, ``ttft_ms`` is nan for "flash".
    """

    time: float
    session: str
    kind: str
    context: int
    ttft_ms: float
    total_ms: float

    @classmethod
    def of(cls, answer: Answer | Answered | FlashAnswered) -> Point:
        """A complete answer, or the event of one."""
        if isinstance(answer, FlashAnswered):
            return cls(answer.time, answer.session or "", "flash", answer.position, math.nan,
                       answer.total_ms)  # fmt: skip
        name = answer.session_name if isinstance(answer, Answer) else answer.session
        closed = answer.choices if isinstance(answer, Answered) else answer.choice is not None
        kind = "flash hit" if answer.from_flash else "choice" if closed else "ask"
        if answer.stateless:
            kind = "prefix hit" if answer.shared_tokens else "stateless"
        return cls(
            answer.time, name or "", kind, answer.context, answer.ttft_ms, answer.total_ms
        )


class PointLog:
    """Events in, points out; memory is bounded however long it watches.

    Each kind has room of its own: a thousand flash evaluations leave the asks where they are.

    Attributes:
        seen: points ever, so that a reader sees whether there are new ones.
        newest: the latest answer that a session gave, if one did.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self.seen = 0
        self.newest: Answered | None = None
        self._kinds: dict[str, deque[Point]] = {kind: deque(maxlen=KEPT_POINTS) for kind in KINDS}

    def take(self, event: Event) -> None:
        """Note one event; only answers matter."""
        if isinstance(event, Answered | FlashAnswered):
            self._add(Point.of(event))
        if isinstance(event, Answered) and event.session and not event.stateless:
            self.newest = event

    def remember(self, engine: Engine) -> None:
        """Note the answers that flash queries gave before it began to watch."""
        for session in engine.sessions.values():
            for query in session.flash_queries:
                for answer in query.answers[-KEPT_PAST:]:
                    self._add(Point(answer.time, session.name, "flash", answer.position, math.nan,
                                    answer.total_ms))  # fmt: skip

    def points(self, session: str = "") -> list[Point]:
        """What is kept, oldest first; of one session, if it is named."""
        kept = (p for kind in self._kinds.values() for p in kind if session in ("", p.session))
        return sorted(kept, key=lambda point: point.time)

    def _add(self, point: Point) -> None:
        self._kinds[point.kind].append(point)
        self.seen += 1


def latency_frame(
    answers: Iterable[Answer | Answered | FlashAnswered | Point], engine: Engine | None = None
) -> pl.DataFrame:
    """One row per answer: ``time session kind context ttft_ms total_ms floor_ms``.

    ``kind`` is "ask", "choice" (an ask with choices, scored in one forward), "flash hit" (an ask
    that a flash query had answered already), "flash" (an evaluation in the background),
    "stateless" (everything was computed for it) or "prefix hit" (of `Engine.generate`, which found
    part of its prompt computed; not drawn); ``context`` counts tokens. ``floor_ms`` is the
    least that one forward over the context can take on this machine, null without an engine. Add
    columns ``stateless_ms`` and ``warm_cache_ms`` to have `latency_figure` draw what peers took.

    Args:
        answers: complete answers, events of answers, or points.
        engine: whose floor it is; its bandwidth is measured if it has not been.
    """
    import polars as pl

    schema = {
        "time": pl.Float64, "session": pl.String, "kind": pl.String, "context": pl.Int64,
        "ttft_ms": pl.Float64, "total_ms": pl.Float64,
    }  # fmt: skip
    points = [answer if isinstance(answer, Point) else Point.of(answer) for answer in answers]
    columns = {name: [getattr(point, name) for point in points] for name in schema}
    floors = [engine.floor_ms(point.context) if engine is not None else None for point in points]
    return (
        pl.DataFrame(columns, schema=schema)
        .with_columns(pl.from_epoch((pl.col("time") * 1e6).cast(pl.Int64), time_unit="us"))
        .with_columns(pl.Series("floor_ms", floors, dtype=pl.Float64))
    )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many of each kind, in their order: what a plot of them all would show.

    Of each slice of contexts the newest, the fastest, the slowest and the middle one stay, so that
    neither the spread nor what has just come is lost.
    """
    out: list[Point] = []
    for kind in KINDS:
        kept = [point for point in points if point.kind == kind]
        out += kept if len(kept) <= most else _slices(kept, max(1, most // 4))
    return sorted(out, key=lambda point: point.time)


def _slices(points: Sequence[Point], slices: int) -> list[Point]:
    widest = max(point.context for point in points) + 1

    def slice_of(point: Point) -> int:
        return point.context * slices // widest

    kept: dict[Point, None] = {}
    for _, members in itertools.groupby(sorted(points, key=slice_of), key=slice_of):
        by_time = sorted(members, key=lambda point: point.total_ms)
        newest = max(by_time, key=lambda point: point.time)
        for point in (by_time[0], by_time[len(by_time) // 2], by_time[-1], newest):
            kept[point] = None
    return list(kept)
