"""The flash board: what each standing question answers now, did before, and buttons to steer it."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench.errors import QuestionError, WorkbenchError
from workbench.events import Event
from workbench.flash.query import FlashQuery
from workbench.front import Engine
from workbench.notebook.panel import SHOWN, Panel, script, shown_ms
from workbench.notebook.view_model import Answers, FlashRow, PastAnswer, answers_of, flash_row


class FlashBoard(Panel):
    """A table of flash queries with buttons, and a form that registers another."""

    _esm = script("flash_board.js")


class FlashBoardPart:
    """The part "flash" of a dashboard.

    What its buttons do, two lines of Python do::

        query.pause(); query.resume(); query.remove()
        engine.session("btc").flash("Is it up?", choices=["up", "down"])
    """

    name = "flash"

    def __init__(self) -> None:
        """Know no query yet."""
        self._numbers = itertools.count(1)
        self._ids: weakref.WeakKeyDictionary[FlashQuery, int] = weakref.WeakKeyDictionary()
        self._answers: weakref.WeakKeyDictionary[FlashQuery, Answers] = weakref.WeakKeyDictionary()
        self._added = {"token": "", "error": ""}
        self.panel = FlashBoard()
        self.widgets: list[widgets.Widget] = [self.panel]

    def take(self, event: Event) -> None:
        """A query's answers are read from the query itself."""

    def draw(self, engine: Engine, now: float) -> None:
        """Show what is new."""
        rows = {}
        for session in engine.sessions.values():
            for query in session.flash_queries:
                seen = self._answers[query] = answers_of(query, self._answers.get(query))
                rows[self._id(query)] = flash_row(session, query, seen)
        state = board_state(rows, list(engine.sessions), self._added)
        if not engine.closed:  # its sessions leave it as it closes; the last picture stays
            self.panel.show(state)

    def act(self, engine: Engine) -> None:
        """Pause, resume, remove and add."""
        for asked in self.panel.actions():
            match asked:
                case {"action": "add", "token": str(token)}:
                    self._added = {"token": token, "error": add(engine, asked)}
                case {"action": "pause" | "resume" | "remove" as verb, "id": int(number)}:
                    for query in _queries(engine):
                        if self._id(query) == number:
                            getattr(query, verb)()
                case _:
                    pass

    def _id(self, query: FlashQuery) -> int:
        if query not in self._ids:
            self._ids[query] = next(self._numbers)
        return self._ids[query]


def _queries(engine: Engine) -> list[FlashQuery]:
    return [query for session in engine.sessions.values() for query in session.flash_queries]


def add(engine: Engine, form: dict[str, Any]) -> str:
    """Register what the form says; returns why it could not be, or nothing."""
    question = str(form.get("question", "")).strip()
    choices = [choice.strip() for choice in str(form.get("choices", "")).split(",")]
    try:
        if not question:
            msg = "expected a question, got nothing; type one"
            raise QuestionError(msg)
        session = engine.session(str(form.get("session", "")))
        session.flash(question, choices=[choice for choice in choices if choice] or None)
    except WorkbenchError as error:
        return str(error)
    return ""


def board_state(
    rows: dict[int, FlashRow], sessions: Sequence[str], added: dict[str, str]
) -> dict[str, Any]:
    """What `flash_board.js` draws: queries by id, and what became of the form sent last.

    Where there are too many for a table, those that fail are in it, then those registered last.
    """
    needed = sorted(rows, key=lambda number: (not rows[number].error, -number))
    chosen = set(needed[:SHOWN])
    return {
        "rows": [_row(number, row) for number, row in rows.items() if number in chosen],
        "more": max(0, len(rows) - SHOWN),
        "sessions": list(sessions),
        "added": dict(added),
    }


def _row(number: int, row: FlashRow) -> dict[str, Any]:
    seen = row.answers
    return {
        "id": number, "session": row.session, "question": row.question,
        "name": row.name if row.name != row.question else "", "choices": list(row.choices),
        "text": seen.text, "choice": seen.choice, "confidence": _share(seen.confidence),
        "chances": [_share(chance) for chance in seen.chances], "age": row.age,
        "version": seen.version, "ms": shown_ms(seen.total_ms),
        "evaluations": seen.evaluations, "dropped": row.dropped, "changes": seen.changes,
        "paused": row.paused, "error": row.error, "state": row.state,
        "past": [_bar(len(row.choices), answer) for answer in seen.past],
    }  # fmt: skip


def _bar(choices: int, answer: PastAnswer) -> list[int]:
    """A past answer in the strip: its colour and its height in percent, below zero downwards.

    Of two choices, the first is drawn upwards: which one won is read from the side as well as from
    the colour. Otherwise a bar is as high as the confidence, in a colour per answer.
    """
    if choices == 2:
        lead = round(100 * (2 * answer.chances[0] - 1))
        return [int(lead < 0), lead]
    return [answer.choice if choices else answer.shade, round(100 * answer.confidence)]


def _share(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
