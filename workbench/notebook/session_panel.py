"""The session monitor: what the engine does, and how full and how far behind each session is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench.events import Event
from workbench.front import Engine
from workbench.notebook.panel import SHOWN, Panel, script, shown_ms
from workbench.notebook.view_model import EngineLine, SessionRow, Watch

_FULL = {"error": "then an error", "rebuild": "then rebuilt", "evict": "then the oldest leave"}


class SessionMonitor(Panel):
    """A line for the engine and a table of sessions."""

    _esm = script("session_monitor.js")


class SessionMonitorPart:
    """The part "sessions" of a dashboard."""

    name = "sessions"

    def __init__(self) -> None:
        """Have seen nothing."""
        self._watch = Watch()
        self.panel = SessionMonitor()
        self.widgets: list[widgets.Widget] = [self.panel]

    def take(self, event: Event) -> None:
        """Note one event."""
        self._watch.take(event)

    def draw(self, engine: Engine, now: float) -> None:
        """Show what is new."""
        line = self._watch.engine_line(engine, now)
        state = monitor_state(line, self._watch.session_rows(engine, now))
        if not engine.closed:  # its sessions leave it as it closes; the last picture stays
            self.panel.show(state)

    def act(self, engine: Engine) -> None:
        """Nothing can be clicked."""
        self.panel.actions()


def monitor_state(line: EngineLine, rows: Sequence[SessionRow]) -> dict[str, Any]:
    """What `session_monitor.js` draws."""
    return {
        "engine": {
            "model": line.model, "dtype": line.dtype, "device": line.device,
            "free": line.free_cells, "cells": line.num_cells,
            "ingest_rate": round(line.ingest_rate), "step_rate": round(line.step_rate, 1),
            "answers": line.answers, "flash_hits": line.flash_hits,
        },
        "rows": [_session(row) for row in _first(rows)],
        "more": max(0, len(rows) - SHOWN),
    }  # fmt: skip


def _first(rows: Sequence[SessionRow]) -> list[SessionRow]:
    """As many as are shown, in their order; what needs a look is among them."""
    rows = list(rows)
    chosen = sorted(range(len(rows)), key=lambda i: not (rows[i].detail or rows[i].dropped))
    return [rows[i] for i in sorted(chosen[:SHOWN])]


def _session(row: SessionRow) -> dict[str, Any]:
    return {
        "name": row.name, "colour": row.colour, "tokens": row.tokens,
        "capacity": row.capacity, "full": _FULL[row.overflow],
        # a window moves on; a session that only fills ends
        "filling": row.overflow == "error" and row.tokens >= 0.9 * row.capacity,
        "rows": row.rows, "rows_rate": round(row.rows_rate, 1), "version": row.version,
        "waiting": row.waiting, "dropped": row.dropped, "lag": shown_ms(row.lag_ms),
        "worst": shown_ms(row.worst_lag_ms), "state": row.state, "detail": row.detail,
    }  # fmt: skip
