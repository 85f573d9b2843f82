import math

import polars as pl
import pytest

from workbench.notebook.figures import (
    history_figure,
    history_frame,
    latency_figure,
    latency_frame,
    live_latency_figure,
    redraw_latency,
)
from workbench.notebook.view_model import Point

POINTS = [
    Point(1.0, "btc", "ask", 100, 2.0, 5.0),
    Point(2.0, "btc", "flash", 200, math.nan, 4.0),
    Point(3.0, "eth", "flash hit", 300, 0.1, 0.1),
    Point(4.0, "eth", "choice", 400, 6.0, 6.0),
]


def drawn(figure):
    return {t.name: list(zip(t.x, t.y, strict=True)) for t in figure.data if len(t.x)}


def test_the_frame_has_a_row_per_answer():
    frame = latency_frame(POINTS)
    assert frame.columns == ["time", "session", "kind", "context", "ttft_ms", "total_ms"]
    assert frame["kind"].to_list() == ["ask", "flash", "flash hit", "choice"]
    assert frame.schema["time"] == pl.Datetime("us")


def test_the_frame_reads_answers_and_events_alike(engine):
    s = engine.open("btc")
    s.push("ab")
    events = []
    engine.events.subscribe(events.append)
    answers = [s.ask("Up?", max_tokens=2), s.ask("Up?", choices=["up", "down"])]
    columns = ["session", "kind", "context", "ttft_ms", "total_ms"]
    seen = latency_frame(e for e in events if type(e).__name__ == "Answered")
    assert latency_frame(answers).select(columns).equals(seen.select(columns))
    assert seen["kind"].to_list() == ["ask", "choice"]


def test_the_figure_draws_the_frame():
    frame = latency_frame(POINTS)
    assert drawn(latency_figure(frame)) == {
        "ask, first token": [(100, 2.0)],
        "ask, whole answer": [(100, 5.0)],
        "ask with choices": [(400, 6.0)],
        "ask, served by flash": [(300, 0.1)],
        "flash, in idle time": [(200, 4.0)],
    }


def test_a_stateless_column_is_drawn_beside():
    frame = latency_frame(POINTS).with_columns(
        stateless_ms=pl.when(pl.col("kind") == "ask").then(50.0)
    )
    assert drawn(latency_figure(frame))["stateless, re-reads all"] == [(100, 50.0)]


@pytest.mark.parametrize(("log", "kind"), [(True, "log"), (False, "linear")])
def test_the_scale_is_chosen(log, kind):
    assert latency_figure(latency_frame([]), log=log).layout.yaxis.type == kind


def test_a_live_figure_takes_new_points():
    figure = live_latency_figure(latency_frame([]))
    assert drawn(figure) == {}
    redraw_latency(figure, latency_frame(POINTS))
    assert drawn(figure) == drawn(latency_figure(latency_frame(POINTS)))
    figure.close()


def test_a_history_figure_draws_each_choice_or_the_confidence(stepped, run_dry):
    s = stepped.open("btc", cells=400)
    closed = s.flash("Up?", choices=["up", "down"])
    opened = s.flash("Last?", max_tokens=2)
    for _ in range(2):
        s.push("ab")
        run_dry(stepped)
    frame = history_frame(closed)
    assert set(drawn(history_figure(frame))) == {"up", "down"}
    assert drawn(history_figure(frame))["up"] == list(frame.select("row", "p_up").rows())
    frame = history_frame(opened)
    assert drawn(history_figure(frame)) == {
        "confidence": list(frame.select("row", "confidence").rows())
    }
