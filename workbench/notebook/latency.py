"""Latency against context growth, live: what answers took, the stateless baseline, the floor."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from workbench.answer import Answer
from workbench.errors import Cancelled, EngineClosed, WorkbenchError
from workbench.events import Answered, Event
from workbench.notebook.export import export_latency
from workbench.notebook.figures import (
    latency_axis,
    latency_frame,
    live_latency_figure,
    redraw_latency,
)
from workbench.notebook.markup import milliseconds
from workbench.notebook.panel import Panel, script, static
from workbench.notebook.points import Point, PointLog, thinned

if TYPE_CHECKING:
    import polars as pl

    from workbench.front import Engine

__all__ = ["LatencyPart", "Point", "PointLog", "export_latency", "latency_frame"]

PLOT_S = 0.5  # seconds between two drawings of the plot, which sends all its points again
NOTE_S = 1.0
MOST_DRAWN = 240  # points of each series
NOTHING_ASKED = "ask a session something first: its newest question is asked again"


class LatencyControls(Panel):
    """The title of the plot and its buttons."""

    _esm = script("latency.js")
    _css = static("latency.css")


class LatencyPart:
    """The part of a dashboard that shows what answers took.

    Attributes:
        log: the points, all that are kept; the plot shows some hundreds of them.
    """

    name = "latency"

    def __init__(self) -> None:
        """An empty plot."""
        self.log = PointLog()
        self.panel = LatencyControls()
        self.figure = live_latency_figure(latency_frame([]))
        plot = widgets.Box([self.figure], layout={"width": "100%", "margin": "0"})
        plot.add_class("workbench-plot")
        self.widgets: list[widgets.Widget] = [self.panel, plot]
        self._log_scale = True
        self._session = ""
        self._note, self._failed = "", False
        self._failed_after: Answered | None = None
        self._measuring: tuple[Answer, Answered] | None = None
        self._cost, self._cost_at = "", 0.0
        self._shown: tuple[Any, ...] = (0, "", False)
        self._plotted_at = 0.0
        self._floor_asked = False
        self._remembered = False

    def take(self, event: Event) -> None:
        """Note an answer."""
        self.log.take(event)

    def draw(self, engine: Engine, now: float) -> None:
        """Show what is new."""
        if not self._remembered:
            self._remembered = True
            self.log.remember(engine)
        if self.log.seen and not self._floor_asked:
            self._floor_asked = True
            _measure_floor(engine)
        self._end_measuring()
        if self._failed and self.log.newest is not self._failed_after:
            self._say("")  # it may be another matter now
        if now - self._cost_at >= NOTE_S:
            self._cost, self._cost_at = self._predicted(engine), now
        sessions = list(engine.sessions)
        if self._session not in sessions:
            self._session = ""
        shown = (self.log.seen, self._session, _has_floor(engine))
        if shown != self._shown and now - self._plotted_at >= PLOT_S:
            self._shown, self._plotted_at = shown, now
            points = thinned(self.log.points(self._session), MOST_DRAWN)
            redraw_latency(self.figure, latency_frame(points, engine if shown[2] else None))
        self.panel.show(
            {
                "log": self._log_scale, "session": self._session, "sessions": sessions,
                "measuring": self._measuring is not None, "cost": self._cost,
                "note": self._note, "failed": self._failed,
            }
        )  # fmt: skip

    def act(self, engine: Engine) -> None:
        """Do what the buttons say."""
        for asked in self.panel.actions():
            match asked:
                case {"action": "scale", "log": bool(log)}:
                    self._scale(log)
                case {"action": "session", "name": str(name)}:
                    self._session = name
                case {"action": "measure"}:
                    self._measure(engine)
                case {"action": "stop"}:
                    if self._measuring is not None:
                        self._measuring[0].cancel()
                case {"action": "export", "suffix": "html" | "parquet" as suffix}:
                    self._export(engine, suffix)
                case _:
                    pass

    def frame(self, engine: Engine | None = None) -> pl.DataFrame:
        """Every point that is kept, of the session that is chosen or of all; see `latency_frame`.

        Args:
            engine: whose floor to add.
        """
        return latency_frame(self.log.points(self._session), engine)

    def _scale(self, log: bool) -> None:
        if log != self._log_scale:
            self._log_scale = log
            self.figure.update_yaxes(**latency_axis(log))

    def _measure(self, engine: Engine) -> None:
        """Ask the newest question again without the session's cells, in the background."""
        if self._measuring is not None:
            return
        newest = self.log.newest
        session = engine.sessions.get(newest.session or "") if newest is not None else None
        if newest is None or session is None:
            self._say(NOTHING_ASKED, failed=True)
            return
        try:
            answer = session.ask_stateless_start(
                newest.question, choices=newest.choices or None,
                max_tokens=max(1, newest.num_tokens),
            )  # fmt: skip
        except WorkbenchError as error:
            self._say(_one_line(error), failed=True)
            return
        self._measuring = answer, newest
        self._say(
            f"reading {answer.context:,} tokens of {session.name} again; flash queries wait ..."
        )

    def _end_measuring(self) -> None:
        if self._measuring is None or not self._measuring[0].done:
            return
        (answer, newest), self._measuring = self._measuring, None
        if isinstance(answer.error, Cancelled):
            self._say("stopped; nothing was measured")
            return
        if answer.error is not None:
            self._say(_one_line(answer.error), failed=True)
            return
        self._say(
            f"stateless: {milliseconds(answer.total_ms)} for {answer.context:,} tokens and the "
            f"question; {answer.session_name} itself took {milliseconds(newest.total_ms)}"
            f"{', served by a flash query' if newest.from_flash else ''}"
        )

    def _predicted(self, engine: Engine) -> str:
        """What a stateless measurement would cost now."""
        newest = self.log.newest
        session = engine.sessions.get(newest.session or "") if newest is not None else None
        if session is None:
            return NOTHING_ASKED
        tokens = session.position
        return (
            f"reads {tokens:,} tokens of {session.name} again, about "
            f"{_seconds(engine.core.prefill_seconds(tokens))} of steps, and flash queries wait"
        )

    def _export(self, engine: Engine, suffix: str) -> None:
        """Write the points beside the notebook."""
        path = Path.cwd() / time.strftime(f"latency-%Y%m%d-%H%M%S.{suffix}")
        try:
            frame = self.frame(engine if _has_floor(engine) else None)
            export_latency(frame, path, log=self._log_scale)
        except (OSError, WorkbenchError) as error:
            self._say(_one_line(error), failed=True)
            return
        self._say(f"wrote {path}")

    def _say(self, words: str, *, failed: bool = False) -> None:
        self._note, self._failed = words, failed
        self._failed_after = self.log.newest


def _has_floor(engine: Engine) -> bool:
    return engine.measured_bandwidth is not None


def _measure_floor(engine: Engine) -> None:
    """Have the engine thread read its weights a few times; nobody waits for it."""

    def measure() -> None:
        # Without a figure there is no line, and nothing else needs one.
        with contextlib.suppress(Exception):
            _ = engine.bandwidth

    with contextlib.suppress(EngineClosed):
        engine.post(measure)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _seconds(seconds: float) -> str:
    if math.isnan(seconds) or seconds < 0.1:
        return f"{max(seconds, 0.0) * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
