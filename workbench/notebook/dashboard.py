"""The live dashboard: parts in one box, their events, and the pump thread that draws them."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import ipywidgets as widgets
from IPython.core.getipython import get_ipython

from workbench.errors import EngineClosed, QuestionError, warn
from workbench.events import Event
from workbench.front import Engine, current_engine
from workbench.notebook.markup import text
from workbench.notebook.panel import Panel, static
from workbench.notebook.part import Part
from workbench.notebook.pump import Pump

QUEUE = 20_000  # events between two beats; beyond that the oldest are not shown

# Where each part is; a module is imported when its part is shown.
_HOMES = {
    "sessions": ("session_panel", "SessionMonitorPart"),
    "flash": ("flash_panel", "FlashBoardPart"),
    "cells": ("cell_panel", "CellMapPart"),
    "steps": ("timeline", "StepTimelinePart"),
    "latency": ("latency", "LatencyPart"),
}
PARTS = tuple(_HOMES)
_HALVES = {"cells", "steps"}  # stand side by side where there is room


class _Place(NamedTuple):
    """A notebook's cell, and which run of it; empty where the front end does not say."""

    cell: str
    run: str


# What is open, by engine and by parts: showing the same again closes the earlier one.
_open: weakref.WeakKeyDictionary[Engine, dict[tuple[str, ...], Dashboard]] = (
    weakref.WeakKeyDictionary()
)


def dashboard(engine: Engine | None = None, parts: Sequence[str] = PARTS) -> Dashboard:
    """A live view of an engine, which also pauses, removes and adds flash queries.

    Shown as a cell's last value. It updates itself, also while no cell runs and while a cell
    awaits; a cell that blocks holds up nothing either. Calling it again for the same engine and
    parts closes the one before, as does running its cell again, and ``close()`` ends it.

    Args:
        engine: None takes the one that was opened last.
        parts: what to show, from top to bottom: "sessions" (how full and how far behind each is),
            "flash" (the flash board), "cells" (who holds which cells of the pool), "steps" (what
            the engine's steps were made of), "latency" (what answers took, by context).

    Raises:
        EngineClosed: there is none, or it was closed. QuestionError: no such part.
    """
    names = (parts,) if isinstance(parts, str) else tuple(parts)
    if not names or len(set(names)) < len(names) or not set(names) <= set(PARTS):
        known = ", ".join(map(repr, PARTS))
        msg = f"parts={parts!r}: expected some of {known}, each once"
        raise QuestionError(msg)
    engine = engine if engine is not None else current_engine()
    if engine is None or engine.closed:
        msg = "there is no open engine to show; open one with engine = wb.Engine()"
        raise EngineClosed(msg)
    shown = _open.setdefault(engine, {})
    here = _place()
    for parts_before, box in list(shown.items()):
        again = here.cell and here.cell == box.place.cell and here.run != box.place.run
        if again or parts_before == names:
            box.close()
    shown[names] = Dashboard(engine, [_part(name) for name in names])
    return shown[names]


def session_monitor(engine: Engine | None = None) -> Dashboard:
    """Only the session monitor of `dashboard`."""
    return dashboard(engine, ("sessions",))


def flash_board(engine: Engine | None = None) -> Dashboard:
    """Only the flash board of `dashboard`."""
    return dashboard(engine, ("flash",))


def cell_map(engine: Engine | None = None) -> Dashboard:
    """Only the cell map of `dashboard`."""
    return dashboard(engine, ("cells",))


def step_timeline(engine: Engine | None = None) -> Dashboard:
    """Only the step timeline of `dashboard`."""
    return dashboard(engine, ("steps",))


def latency_plot(engine: Engine | None = None) -> Dashboard:
    """Only the latency plot of `dashboard`."""
    return dashboard(engine, ("latency",))


class Dashboard(widgets.VBox):
    """The box that `dashboard` returns; its widgets belong to one pump thread.

    Args:
        engine: what to watch. It is not kept alive: when it is closed, the last picture stays.
        parts: what it shows, from top to bottom.
    """

    def __init__(self, engine: Engine, parts: Sequence[Part]) -> None:
        """Show it as it is now, and begin to follow it."""
        self._engine = weakref.ref(engine)
        self._name = engine.model_name
        self.place = _place()
        self._slots = [_Slot(part) for part in parts]
        self._events: deque[Event] = deque(maxlen=QUEUE)
        self._end_note = _note()
        body = widgets.VBox([slot.box for slot in self._slots])
        body.add_class("workbench-parts")
        style = widgets.HTML(f"<style>{static('workbench.css')}</style>")
        style.add_class("workbench-style")
        if {part.name for part in parts} >= _HALVES:
            for slot in self._slots:
                if slot.part.name in _HALVES:
                    slot.box.add_class("workbench-half")
        super().__init__([style, self._end_note, body])
        self.add_class("workbench")
        self.layout.width = "100%"
        self._pump = Pump(self.refresh)
        self._unsubscribe = engine.events.subscribe(self._events.append)
        self.refresh()
        self._pump.start()

    def __repr__(self) -> str:
        """What it watches; the picture itself is a widget."""
        return f"Dashboard({self._name!r}, {', '.join(slot.part.name for slot in self._slots)})"

    def refresh(self) -> None:
        """Draw what is new. The pump calls it; so may tests, once it has stopped."""
        engine, now = self._engine(), time.time()
        events = [self._events.popleft() for _ in range(len(self._events))]
        if engine is not None:
            for slot in self._slots:
                slot.beat(engine, events, now)
        if engine is None or engine.closed:
            self._end()

    def close(self) -> None:
        """End the updates and take the widgets off the page."""
        pump = getattr(self, "_pump", None)
        if pump is not None:
            self._unsubscribe()
            pump.stop()
        engine = self._engine() if pump is not None else None
        if engine is not None:
            shown = _open.get(engine, {})
            for names in [names for names, box in shown.items() if box is self]:
                del shown[names]
        boxes = [self, *_descendants(self)]
        looks = [getattr(box, name, None) for box in boxes for name in ("layout", "style")]
        for look in looks:  # widgets of their own
            if isinstance(look, widgets.Widget):
                look.close()
        for child in boxes[1:]:
            child.close()
        super().close()

    @property
    def closed(self) -> bool:
        """Whether it shows nothing new any more."""
        return bool(self._pump.stopped)

    @property
    def parts(self) -> dict[str, Part]:
        """What it shows, by name."""
        return {slot.part.name: slot.part for slot in self._slots}

    def _end(self) -> None:
        """The engine is gone: leave the last picture, and say so."""
        self._unsubscribe()
        self._pump.stop()
        _say(self._end_note, "The engine was closed; this is the last picture of it.")
        for child in _descendants(self):
            if isinstance(child, Panel):
                child.over = True


class _Slot:
    """A part and its place; where the part fails, a note stands there until it works again."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._note = _note()
        self._body = widgets.VBox(list(part.widgets))
        self._body.add_class("workbench-body")
        self.box = widgets.VBox([self._note, self._body])
        self.box.add_class("workbench-part")
        self.box.add_class(f"workbench-{part.name}")
        self._reported: set[str] = set()

    def beat(self, engine: Engine, events: Sequence[Event], now: float) -> None:
        """One beat of the pump."""
        try:
            for event in events:
                self.part.take(event)
            if engine.closed:
                return  # it has nothing left to draw
            self.part.act(engine)
            self.part.draw(engine, now)
        except Exception as error:
            if not engine.closed:
                self._fail(error)
            return
        _say(self._note, "")
        _set(self._body.layout, "display", None)

    def _fail(self, error: Exception) -> None:
        fault = f"{type(error).__name__}: {error}"
        _say(self._note, f"the part {self.part.name!r} could not be drawn ({fault})")
        _set(self._body.layout, "display", "none")
        if type(error).__name__ not in self._reported:  # the same would come again at every beat
            self._reported.add(type(error).__name__)
            warn(f"the dashboard's part {self.part.name!r} could not be drawn: {error!r}")


def _place() -> _Place:
    shell = get_ipython()
    ask = getattr(shell, "get_parent", dict)  # a notebook's shell has it
    parent: dict[str, Any] = ask()
    cell = parent.get("metadata", {}).get("cellId", "")
    return _Place(str(cell), str(parent.get("header", {}).get("msg_id", "")))


def _part(name: str) -> Part:
    module, kind = _HOMES[name]
    part: Part = getattr(import_module(f"workbench.notebook.{module}"), kind)()
    return part


def _note() -> widgets.HTML:
    note = widgets.HTML(layout={"display": "none"})
    note.add_class("workbench-note")
    return note


def _say(note: widgets.HTML, words: str) -> None:
    _set(note, "value", text(words))
    _set(note.layout, "display", None if words else "none")


def _set(owner: Any, name: str, value: Any) -> None:
    if getattr(owner, name) != value:  # an equal value would still be compared, and sent by some
        setattr(owner, name, value)


def _descendants(box: Any) -> list[Any]:
    found = []
    for child in getattr(box, "children", ()):
        found += [*_descendants(child), child]
    return found
