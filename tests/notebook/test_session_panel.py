import math

import pytest

from workbench.notebook.panel import SHOWN
from workbench.notebook.session_panel import SessionMonitorPart, monitor_state
from workbench.notebook.view_model import EngineLine, SessionRow

LINE = EngineLine("tape", "float32", "cpu", 300, 1000, 12.6, 3.14159, 7, 2)


def row(name="btc", tokens=10, overflow="error", **changes):
    options = {
        "colour": 2, "capacity": 100, "rows": 5, "rows_rate": 0.25, "version": 3, "waiting": 1,
        "dropped": 0, "lag_ms": 5.04, "worst_lag_ms": math.nan, "state": "", "detail": "",
    }  # fmt: skip
    return SessionRow(name=name, tokens=tokens, overflow=overflow, **(options | changes))


def test_the_state_is_plain_values_without_digits_nobody_sees():
    state = monitor_state(LINE, [row()])
    assert state["engine"] == {
        "model": "tape", "dtype": "float32", "device": "cpu", "free": 300, "cells": 1000,
        "ingest_rate": 13, "step_rate": 3.1, "answers": 7, "flash_hits": 2,
    }  # fmt: skip
    assert state["rows"] == [
        {
            "name": "btc", "colour": 2, "tokens": 10, "capacity": 100, "full": "then an error",
            "filling": False, "rows": 5, "rows_rate": 0.2, "version": 3, "waiting": 1,
            "dropped": 0, "lag": 5.0, "worst": None, "state": "", "detail": "",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overflow", "tokens", "full", "filling"),
    [
        ("error", 89, "then an error", False), ("error", 90, "then an error", True),
        ("rebuild", 99, "then rebuilt", False), ("evict", 99, "then the oldest leave", False),
    ],
)  # fmt: skip
def test_only_a_session_that_ends_when_full_alarms(overflow, tokens, full, filling):
    (shown,) = monitor_state(LINE, [row(overflow=overflow, tokens=tokens)])["rows"]
    assert (shown["full"], shown["filling"]) == (full, filling)


def test_many_sessions_are_cut_short():
    state = monitor_state(LINE, [row(str(i)) for i in range(SHOWN + 10)])
    assert len(state["rows"]) == SHOWN and state["more"] == 10
    quiet = [row(str(i)) for i in range(SHOWN + 10)]
    loud = row("loud", dropped=3)
    names = [shown["name"] for shown in monitor_state(LINE, [*quiet, loud])["rows"]]
    assert len(names) == SHOWN and names[-1] == "loud" and names[:3] == ["0", "1", "2"]


def test_it_follows_an_engine(stepped, run_dry):
    part = SessionMonitorPart()
    stepped.events.subscribe(part.take)
    s = stepped.open("btc", cells=100)
    s.push(["ab", "cd"])
    run_dry(stepped)
    part.draw(stepped, 0.0)
    (shown,) = part.panel.state["rows"]
    assert (shown["name"], shown["tokens"], shown["rows"]) == ("btc", s.position, 2)
    assert shown["lag"] == shown["worst"] > 0


def test_it_keeps_its_last_picture_of_an_engine_that_was_closed(stepped):
    part = SessionMonitorPart()
    stepped.open("btc", cells=100)
    part.draw(stepped, 0.0)
    stepped.close()
    part.draw(stepped, 0.0)
    assert [shown["name"] for shown in part.panel.state["rows"]] == ["btc"]
