"""The live dashboard: what flash queries answer, how full sessions are, what an ask costs."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.errors import EngineClosed
from workbench.events import Event
from workbench.front import Engine, current_engine
from workbench.notebook import board
from workbench.notebook.figures import (
    latency_axis,
    latency_frame,
    live_latency_figure,
    redraw_latency,
)
from workbench.notebook.pump import Pump
from workbench.notebook.view_model import Watch, flash_rows

QUEUE = 20_000  # events between two beats; beyond that the oldest are not shown
PLOT_S = 0.5  # seconds between two drawings of the plot, which sends all its points again

# What is open, by engine and by parts: showing the same again closes the earlier one.
_open: weakref.WeakKeyDictionary[Engine, dict[tuple[str, ...], Dashboard]] = (
    weakref.WeakKeyDictionary()
)


def dashboard(engine: Engine | None = None) -> Dashboard:
    """A live view of an engine: its sessions, the flash board, and latency against context.

    Shown as a cell's last value. It updates itself, also while no cell runs and while a cell
    awaits; a cell that blocks holds up nothing either. Calling it again for the same engine closes
    the one before, and ``close()`` ends it.

    Args:
        engine: None takes the one that was opened last.

    Raises:
        EngineClosed: there is none, or it was closed.
    """
    return _show(engine, ("sessions", "flash", "latency"))


def flash_board(engine: Engine | None = None) -> Dashboard:
    """Only the flash board of `dashboard`."""
    return _show(engine, ("flash",))


def latency_plot(engine: Engine | None = None) -> Dashboard:
    """Only the plot of `dashboard`."""
    return _show(engine, ("latency",))


class Dashboard(widgets.VBox):
    """The box that `dashboard` returns; its widgets belong to one pump thread.

    Args:
        engine: what to watch. It is not kept alive: when it is closed, the last picture stays.
        parts: which of "sessions", "flash" and "latency", from top to bottom.
    """

    def __init__(self, engine: Engine, parts: tuple[str, ...]) -> None:
        """Show it as it is now, and begin to follow it."""
        self._engine = weakref.ref(engine)
        self._watch = Watch()
        self._events: deque[Event] = deque(maxlen=QUEUE)
        self._log = True
        self._log_shown = True
        self._points_shown = 0
        self._plotted_at = 0.0
        self._draw: dict[str, Callable[[Engine, float], None]] = {}
        children: list[widgets.Widget] = [widgets.HTML(board.STYLE)]
        for part in parts:
            children += {
                "sessions": self._sessions, "flash": self._board, "latency": self._latency,
            }[part]()  # fmt: skip
        super().__init__(children)
        self.add_class("workbench")
        self.layout.width = "100%"
        self._watch.remember(engine)
        self._pump = Pump(self.refresh)
        self._unsubscribe = engine.events.subscribe(self._events.append)
        self.refresh()
        self._pump.start()

    def __repr__(self) -> str:
        """What it watches; the picture itself is a widget."""
        engine = self._engine()
        name = repr(engine.model_name) if engine is not None else "an engine that is gone"
        return f"Dashboard({name}, {', '.join(self._draw)})"

    def refresh(self) -> None:
        """Draw what is new. The pump calls it; so may tests, once it has stopped."""
        while self._events:
            self._watch.take(self._events.popleft())
        engine = self._engine()
        if engine is None:
            self._pump.stop()
            return
        now = time.time()
        for draw in self._draw.values():
            draw(engine, now)
        if engine.closed:
            self._pump.stop()

    def close(self) -> None:
        """End the updates and take the widgets off the page."""
        pump = getattr(self, "_pump", None)
        if pump is not None:
            self._unsubscribe()
            pump.stop()
        for child in _descendants(self):
            child.close()
        super().close()

    @property
    def closed(self) -> bool:
        """Whether it shows nothing new any more."""
        return bool(self._pump.stopped)

    def _sessions(self) -> list[widgets.Widget]:
        line = widgets.HTML(layout=_WIDE)
        table = widgets.HTML(layout=_WIDE)

        def draw(engine: Engine, now: float) -> None:
            _set(line, board.engine_html(self._watch.engine_line(engine, now)))
            _set(table, board.sessions_html(self._watch.session_rows(engine)))

        self._draw["sessions"] = draw
        return [line, table]

    def _board(self) -> list[widgets.Widget]:
        table = widgets.HTML(layout=_WIDE)

        def draw(engine: Engine, now: float) -> None:
            _set(table, board.flash_html(flash_rows(engine, now)))

        self._draw["flash"] = draw
        return [table]

    def _latency(self) -> list[widgets.Widget]:
        figure = live_latency_figure(latency_frame([]))
        scale = widgets.ToggleButtons(
            options=[("log", True), ("linear", False)],
            tooltips=["logarithmic milliseconds", "linear milliseconds"],
        )
        scale.style.button_width = "64px"
        # It may run in any thread, and only the pump may touch the figure.
        scale.observe(lambda change: setattr(self, "_log", change["new"]), "value")

        def draw(engine: Engine, now: float) -> None:
            if self._log != self._log_shown:
                self._log_shown = self._log
                figure.update_yaxes(**latency_axis(self._log))
            news = self._points_shown != self._watch.num_points
            if news and now - self._plotted_at >= PLOT_S:
                self._plotted_at = now
                self._points_shown = self._watch.num_points
                redraw_latency(figure, latency_frame(self._watch.points))

        self._draw["latency"] = draw
        title = widgets.HTML(board.title_html("Latency and context"))
        head = widgets.HBox([title, scale])
        head.add_class("workbench-head")
        plot = widgets.Box([figure], layout=_WIDE)
        plot.add_class("workbench-plot")
        return [head, plot]


_WIDE = {"width": "100%", "margin": "0", "min_width": "0"}


def _show(engine: Engine | None, parts: tuple[str, ...]) -> Dashboard:
    engine = engine if engine is not None else current_engine()
    if engine is None or engine.closed:
        msg = "there is no open engine to show; open one with engine = wb.Engine()"
        raise EngineClosed(msg)
    shown = _open.setdefault(engine, {})
    if parts in shown:
        shown.pop(parts).close()
    shown[parts] = Dashboard(engine, parts)
    return shown[parts]


def _set(widget: widgets.HTML, value: str) -> None:
    if widget.value != value:  # an equal value would still be compared, and sent by some
        widget.value = value


def _descendants(box: Any) -> list[Any]:
    found = []
    for child in getattr(box, "children", ()):
        found += [*_descendants(child), child]
    layout = getattr(box, "layout", None)
    return [*found, layout] if isinstance(layout, widgets.Layout) else found  # plotly has its own
