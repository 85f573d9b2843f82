import math

import polars as pl
import pytest

from workbench.events import Planned
from workbench.notebook.cell_panel import line_length
from workbench.notebook.figures import (
    backtest_figure,
    cell_map_figure,
    cells_frame,
    history_figure,
    history_frame,
    latency_figure,
    latency_frame,
    live_latency_figure,
    redraw_latency,
    step_timeline_figure,
    steps_frame,
)
from workbench.notebook.points import Point

POINTS = [
    Point(1.0, "btc", "ask", 100, 2.0, 5.0),
    Point(2.0, "btc", "flash", 200, math.nan, 4.0),
    Point(3.0, "eth", "flash hit", 300, 0.1, 0.1),
    Point(4.0, "eth", "choice", 400, 6.0, 6.0),
    Point(5.0, "eth", "stateless", 500, 60.0, 70.0),
]


def drawn(figure):
    return {t.name: list(zip(t.x, t.y, strict=True)) for t in figure.data if len(t.x)}


def test_the_frame_has_a_row_per_answer():
    frame = latency_frame(POINTS)
    assert frame.columns == [
        "time", "session", "kind", "context", "ttft_ms", "total_ms", "floor_ms",
    ]  # fmt: skip
    assert frame["kind"].to_list() == ["ask", "flash", "flash hit", "choice", "stateless"]
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
        "stateless, re-reads all": [(500, 70.0)],
    }


def test_peers_columns_are_drawn_beside():
    when = pl.when(pl.col("kind") == "ask")
    frame = latency_frame(POINTS).with_columns(
        stateless_ms=when.then(50.0), warm_cache_ms=when.then(9.0)
    )
    shown = drawn(latency_figure(frame, log=False))
    assert shown["stateless, re-reads all"] == [(500, 70.0), (100, 50.0)]
    assert shown["a cache kept warm by hand"] == [(100, 9.0)]


def test_the_floor_is_a_line_over_the_contexts_shown():
    frame = latency_frame(POINTS).with_columns(floor_ms=pl.col("context") / 100)
    assert drawn(latency_figure(frame))["floor, one forward"] == [
        (100, 1.0), (200, 2.0), (300, 3.0), (400, 4.0), (500, 5.0),
    ]  # fmt: skip
    many = [Point(1.0, "btc", "ask", i, 2.0, 5.0) for i in range(1_000)]
    frame = latency_frame(many).with_columns(floor_ms=pl.col("context") * 1.0)
    line = drawn(latency_figure(frame))["floor, one forward"]
    assert 20 < len(line) < 60 and line[0] == (0, 0.0) and line[-1] == (999, 999.0)


@pytest.mark.parametrize(("log", "kind"), [(True, "log"), (False, "linear")])
def test_the_scale_is_chosen(log, kind):
    assert latency_figure(latency_frame([]), log=log).layout.yaxis.type == kind


def test_a_live_figure_takes_new_points():
    figure = live_latency_figure(latency_frame([]))
    assert drawn(figure) == {}
    frame = latency_frame(POINTS).with_columns(floor_ms=pl.col("context") / 100)
    redraw_latency(figure, frame)
    assert drawn(figure) == drawn(latency_figure(frame)) and len(drawn(figure)) == 7
    redraw_latency(figure, latency_frame([]))
    assert drawn(figure) == {}
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


TESTED = pl.DataFrame(
    {
        "row": [10, 20, 30], "text": ["up", " down", "up"], "choice": ["up", "down", "up"],
        "p_up": [0.8, 0.3, 0.6], "p_down": [0.2, 0.7, 0.4],
    }
)  # fmt: skip


def test_a_backtest_figure_draws_chances_and_what_was_right():
    chances = {"up": [(10, 0.8), (20, 0.3), (30, 0.6)], "down": [(10, 0.2), (20, 0.7), (30, 0.4)]}
    assert drawn(backtest_figure(TESTED)) == chances
    judged = TESTED.with_columns(truth=pl.Series(["up", "down", "down"]))
    figure = backtest_figure(judged)
    shown = {name: [x for x, _ in at] for name, at in drawn(figure).items()}
    assert shown["right, 2 of 3"] == [10, 20] and shown["wrong, 1 of 3"] == [30]
    assert figure.data[-1].text == ("said up, was down",)
    unknown = TESTED.with_columns(truth=pl.Series(["up", None, None]))
    assert "right, 1 of 1" in drawn(backtest_figure(unknown))


OPEN = TESTED.select("row", "text", confidence=pl.lit(1.0))


def test_truth_is_compared_as_rows_print_it():
    said = OPEN.with_columns(text=pl.Series(["99.940", "100", "none"]))
    for truth in ([99.94, 100.0, 3.0], [99.940004, 100, 3]):
        shown = drawn(backtest_figure(said.with_columns(truth=pl.Series(truth, strict=False))))
        assert "right, 2 of 3" in shown
    said = OPEN.with_columns(text=pl.Series(["True", "false", "True"]))
    assert "right, 2 of 3" in drawn(
        backtest_figure(said.with_columns(truth=pl.Series([True, False, False])))
    )


def test_a_joined_column_is_no_choice():
    joined = TESTED.with_columns(p_close=pl.Series([100.0, 101.0, 102.0]), p_name=pl.lit("x"))
    assert set(drawn(backtest_figure(joined))) == {"up", "down"}


def test_a_real_backtest_is_drawn(engine):
    s = engine.open("btc", cells=400)
    s.push(["one", "two", "three", "four"]).wait(60)
    test = s.backtest("Up?", choices=["up", "down"], every=2, progress=False)
    assert [x for x, _ in drawn(backtest_figure(test.frame))["up"]] == [2, 4]
    opened = s.backtest("Last?", max_tokens=2, every=2, progress=False)
    assert set(drawn(backtest_figure(opened.frame))) == {"confidence"}


def test_a_cell_map_figure_has_every_cell(stepped, run_dry):
    for name in ("btc", "eth"):
        stepped.open(name, prompt="The same long beginning. " * 20, cells=800).push(f"{name} ab")
        run_dry(stepped)
    frame = cells_frame(stepped)
    figure = cell_map_figure(frame)
    assert {t.name for t in figure.data} == {
        "btc", "eth", "btc, reserved", "eth, reserved", "shared", "free",
    }  # fmt: skip
    assert sum(sum(t.x) for t in figure.data) == stepped.num_cells
    line = line_length(stepped.num_cells)
    spans = sorted((y + b, y + b + x) for t in figure.data
                   for y, b, x in zip(t.y, t.base, t.x, strict=True))  # fmt: skip
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert all(b - a <= line for a, b in spans)


def test_a_timeline_figure_has_a_bar_for_every_phase_of_a_step():
    step = {"num_slices": 1, "decode": 0, "question": 0, "flash": 0, "ingest": 0}
    frame = steps_frame(
        [
            Planned(step=1, time=100.02, duration_s=0.02, **step | {"decode": 1, "ingest": 3}),
            Planned(step=2, time=100.06, duration_s=0.01, **step | {"flash": 5}),
        ]
    )
    shown = {t.name: list(zip(t.base, t.x, strict=True)) for t in step_timeline_figure(frame).data}
    assert shown["decode"] == shown["ingest"] == [(pytest.approx(0), pytest.approx(0.02))]
    assert shown["flash"] == [(pytest.approx(0.05, abs=1e-5), pytest.approx(0.01))]
    assert shown["question"] == shown["background"] == []
    assert shown["idle"] == [(pytest.approx(0.02), pytest.approx(0.03, abs=1e-5))]
    assert len(step_timeline_figure(steps_frame([])).data) == 6
