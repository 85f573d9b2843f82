"""The step timeline: what each step of the engine was for, and how much of the time was idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from workbench.events import Event, Planned
from workbench.notebook.panel import Panel, script, static

if TYPE_CHECKING:
    import polars as pl

    from workbench.front import Engine

PHASES = ("decode", "question", "ingest", "flash", "background")
WINDOWS = (2, 10, 60)  # seconds a picture may show
KEPT_STEPS = 5_000  # as they were; older ones are only kept merged
REFRESH_S = 0.25
MOST_BARS = 95  # of each window, beyond the shorter one
SLACK_S = 1.0  # kept beyond a window, since windows meet where bars end
TOLD = 3  # sessions that are told of one bar
# Steps that began in the same so many milliseconds may be shown as one, by window: the first that
# leaves few enough. Each is a whole number of the one before, so that bars merge as whole bars.
_MERGED_MS = {2: (0, 5, 10, 20), 10: (25, 50, 100), 60: (150, 300, 600)}


@dataclass
class Bar:
    """Consecutive steps in the picture; one alone where there is room.

    Attributes:
        began, ended: seconds since the epoch; between merged steps the engine may have been idle.
        busy_s: what the steps took.
        steps, first: how many they are, and the number of the first.
        tokens: by phase, in the order of `PHASES`.
        predicted_s: what the cost model said they would take.
        limit: tokens that ingestion might have had in the last of them.
        limited_by: why no more; the reasons of several, separated by commas.
        shares: tokens by session; "" is stateless requests.
    """

    began: float
    ended: float
    busy_s: float
    steps: int
    first: int
    tokens: tuple[int, ...]
    predicted_s: float
    limit: int
    limited_by: str
    shares: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Planned) -> Bar:
        """One step."""
        shares: dict[str, int] = {}
        for share in event.shares:
            shares[share.session] = shares.get(share.session, 0) + share.tokens
        return cls(
            event.time - event.duration_s, event.time, event.duration_s, 1, event.step,
            (event.decode, event.question, event.ingest, event.flash, event.background),
            event.predicted_s, event.ingest_limit, event.limited_by, shares,
        )  # fmt: skip

    def add(self, later: Bar) -> None:
        """Take the next bar in."""
        self.ended = later.ended
        self.busy_s += later.busy_s
        self.steps += later.steps
        self.tokens = tuple(map(sum, zip(self.tokens, later.tokens, strict=True)))
        self.predicted_s += later.predicted_s
        self.limit = later.limit
        if later.limited_by not in self.limited_by:
            self.limited_by += f", {later.limited_by}" if self.limited_by else later.limited_by
        for name, tokens in later.shares.items():
            self.shares[name] = self.shares.get(name, 0) + tokens

    def copy(self) -> Bar:
        """Another one like it."""
        return Bar(self.began, self.ended, self.busy_s, self.steps, self.first, self.tokens,
                   self.predicted_s, self.limit, self.limited_by, dict(self.shares))  # fmt: skip


def merged(bars: Iterable[Bar], every_ms: float) -> list[Bar]:
    """Bars that began in the same ``every_ms`` milliseconds as one; 0 leaves them alone."""
    out: list[Bar] = []
    key: float | None = None
    for bar in bars:
        slot = bar.began * 1e3 // every_ms if every_ms else None
        if out and slot is not None and slot == key:
            out[-1].add(bar)
        else:
            out.append(bar.copy())
        key = slot
    return out


class StepLog:
    """Steps in, bars out; memory is bounded, and old steps are coarser than new ones.

    Attributes:
        events: the latest steps as they were.
        seen: steps ever.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self.events: deque[Planned] = deque(maxlen=KEPT_STEPS)
        self.seen = 0
        self._kept: dict[int, deque[Bar]] = {window: deque() for window in WINDOWS}

    def take(self, event: Event) -> None:
        """Note one event; only steps matter."""
        if not isinstance(event, Planned):
            return
        self.events.append(event)
        self.seen += 1
        bar = Bar.of(event)
        for window, kept in self._kept.items():
            every = _MERGED_MS[window][0]
            if every and kept and kept[-1].began * 1e3 // every == bar.began * 1e3 // every:
                kept[-1].add(bar)
            else:
                kept.append(bar.copy())
            while kept[0].ended < event.time - window - SLACK_S:
                kept.popleft()
        while len(self._kept[WINDOWS[0]]) > KEPT_STEPS:
            self._kept[WINDOWS[0]].popleft()

    def bars(self, now: float) -> list[Bar]:
        """The last minute before ``now``, oldest first, in a few hundred bars at most.

        The last seconds are shown as finely as they can be, and what is older as coarsely as the
        longer windows need. Every step is in exactly one bar.
        """
        out: list[Bar] = []
        until = float("inf")
        for window, coarser in zip(WINDOWS, (*WINDOWS[1:], None), strict=True):
            # Where the next longer window's bars end, so that none is cut in two.
            grid = _MERGED_MS[coarser][-1] if coarser else 1
            since = (now - window) * 1e3 // grid * grid
            kept = [bar for bar in self._kept[window] if since <= bar.began * 1e3 < until]
            out = [*_few(kept, _MERGED_MS[window]), *out]
            until = since
        return out


def _few(bars: list[Bar], choices_ms: Sequence[float]) -> list[Bar]:
    """Merged by the first of these that leaves few enough, or else by the last."""
    for every in choices_ms[:-1]:
        if len({bar.began * 1e3 // every if every else bar.first for bar in bars}) <= MOST_BARS:
            return merged(bars, every)
    return merged(bars, choices_ms[-1])


def steps_frame(events: Iterable[Event]) -> pl.DataFrame:
    """One row per step, from an engine's events; others are passed over.

    Columns: ``step``, ``began``, ``duration_ms``, the tokens of each phase (``decode``,
    ``question``, ``ingest``, ``flash``, ``background``), ``predicted_ms`` (the cost model's),
    ``ingest_limit`` and ``limited_by`` (see `workbench.events.Planned`).
    """
    import polars as pl

    rows = [
        (e.step, (e.time - e.duration_s) * 1e6, e.duration_s * 1e3, e.decode, e.question, e.ingest,
         e.flash, e.background, e.predicted_s * 1e3, e.ingest_limit, e.limited_by)
        for e in events if isinstance(e, Planned)
    ]  # fmt: skip
    schema: dict[str, Any] = {
        "step": pl.Int64, "began": pl.Float64, "duration_ms": pl.Float64,
        **dict.fromkeys(PHASES, pl.Int64), "predicted_ms": pl.Float64, "ingest_limit": pl.Int64,
        "limited_by": pl.String,
    }  # fmt: skip
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    began = pl.from_epoch(pl.col("began").round().cast(pl.Int64), time_unit="us")
    return frame.with_columns(began.alias("began"))


def shares_frame(events: Iterable[Event]) -> pl.DataFrame:
    """Whose tokens each step's were: one row per ``step``, ``session`` and ``phase``, ``tokens``.

    Stateless requests have no session: theirs is "".
    """
    import polars as pl

    rows = [(e.step, *share) for e in events if isinstance(e, Planned) for share in e.shares]
    schema: dict[str, Any] = {
        "step": pl.Int64, "session": pl.String, "phase": pl.String, "tokens": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def timeline_state(bars: Iterable[Bar], now: float, base: float) -> dict[str, Any]:
    """What the browser draws; times are milliseconds since ``base``, when the watching began."""
    names: dict[str, int] = {}
    rows = []
    for bar in bars:
        told = sorted(bar.shares.items(), key=lambda share: -share[1])[:TOLD]
        shares = [[names.setdefault(name, len(names)), tokens] for name, tokens in told]
        rows.append([
            round((bar.began - base) * 1e3, 2), round((bar.ended - bar.began) * 1e3, 2),
            round(bar.busy_s * 1e3, 2), bar.steps, bar.first, list(bar.tokens),
            round(bar.predicted_s * 1e3, 2), bar.limit, bar.limited_by, shares, len(bar.shares),
        ])  # fmt: skip
    return {
        "phases": list(PHASES), "windows": list(WINDOWS), "base": base,
        "now": round((now - base) * 1e3), "names": list(names), "bars": rows,
    }  # fmt: skip


class StepTimelinePanel(Panel):
    """The timeline in the browser, which chooses the window and freezes by itself."""

    _esm = script("step_timeline.js")
    _css = static("step_timeline.css")


class StepTimelinePart:
    """The part of a dashboard that shows steps as they run."""

    name = "steps"

    def __init__(self) -> None:
        """Empty until there are steps."""
        self.log = StepLog()
        self.panel = StepTimelinePanel()
        self.widgets: list[widgets.Widget] = [self.panel]
        self._shown = -1
        self._drawn_at = 0.0
        self._base: float | None = None

    def take(self, event: Event) -> None:
        """Note a step."""
        self.log.take(event)

    def draw(self, engine: Engine, now: float) -> None:
        """Show the steps since the last time; time itself passes in the browser."""
        if self._base is None:
            self._base = now
        if self.log.seen == self._shown or now - self._drawn_at < REFRESH_S:
            return
        self._shown, self._drawn_at = self.log.seen, now
        self.panel.show(timeline_state(self.log.bars(now), now, self._base))

    def act(self, engine: Engine) -> None:
        """The browser does everything itself."""

    @property
    def frame(self) -> pl.DataFrame:
        """The latest steps: `steps_frame`."""
        return steps_frame(self.log.events)
