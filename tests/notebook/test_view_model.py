import math

from workbench.answer import Answer
from workbench.events import Answered, Committed, FlashAnswered, Planned, SessionOpened
from workbench.notebook.view_model import (
    JUST_NOW_S,
    KEPT_POINTS,
    PAST,
    EngineLine,
    Point,
    SessionRow,
    Watch,
    flash_row,
    flash_rows,
)


def answered(time=1.0, position=10, **changes):
    options = {
        "session": "btc", "time": time, "question": "Up?", "position": position, "queue_ms": 1.0,
        "ttft_ms": 2.0, "total_ms": 3.0, "num_tokens": 1, "from_flash": False, "choices": False,
    }  # fmt: skip
    return Answered(**(options | changes))


def test_answers_become_points_by_kind():
    watch = Watch()
    for event in (
        answered(),
        answered(choices=True),
        answered(choices=True, from_flash=True),
        SessionOpened(session="btc", budget=5),
    ):
        watch.take(event)
    assert watch.points == [
        Point(1.0, "btc", kind, 10, 2.0, 3.0) for kind in ("ask", "choice", "flash hit")
    ]
    flash = FlashAnswered(
        session="btc", time=2.0, flash="f", text="up", confidence=1.0, version=1, position=20,
        total_ms=5.0, changed=True,
    )  # fmt: skip
    watch.take(flash)
    point = watch.points[-1]
    assert (point.kind, point.context, point.total_ms) == ("flash", 20, 5.0)
    assert math.isnan(point.ttft_ms)


def test_memory_is_bounded_and_the_newest_stay():
    watch = Watch()
    for i in range(KEPT_POINTS + 5):
        watch.take(answered(position=i))
    assert watch.num_points == KEPT_POINTS + 5
    assert [p.context for p in watch.points] == list(range(5, KEPT_POINTS + 5))


def test_the_ingest_rate_is_over_the_last_five_seconds():
    watch = Watch()
    counts = {"decode": 0, "question": 0, "flash": 0, "num_slices": 1, "duration_s": 0.1}
    for time, tokens in ((0.0, 1000), (96.0, 30), (99.0, 20), (99.5, 0)):
        watch.take(Planned(time=time, step=1, ingest=tokens, **counts))
    assert watch.ingest_rate(100.0) == 10.0
    assert watch.ingest_rate(200.0) == 0.0


def test_a_session_row_is_what_the_session_says(stepped, run_dry):
    s = stepped.open("btc", cells=100)
    watch = Watch()
    stepped.events.subscribe(watch.take)
    s.push(["ab", "cd"])
    (waiting,) = watch.session_rows(stepped)
    assert (waiting.waiting, waiting.version) == (2, 0)
    assert math.isnan(waiting.lag_ms)
    run_dry(stepped)
    (row,) = watch.session_rows(stepped)
    lag_ms = row.lag_ms
    assert row == SessionRow("btc", s.position, 100, "error", 2, 1, 0, 0, lag_ms, "")
    assert lag_ms > 0
    s.close()
    assert watch.session_rows(stepped) == [] and watch._lags == {}


def test_a_committed_tick_of_no_session_is_harmless():
    Watch().take(Committed(version=1, position=1, rows=1, lag_s=0.1))


def test_the_engine_line_counts(stepped, run_dry):
    s = stepped.open("btc", cells=100)
    watch = Watch()
    s.push("ab")
    run_dry(stepped)
    s.ask_start("Up?", max_tokens=1)
    run_dry(stepped)
    line = watch.engine_line(stepped, 0.0)
    assert line == EngineLine(
        stepped.model_name, "float32", "cpu", 1, 2048 - 100, 2048, 0.0, 1, 0, 0, line.ttft_ms, ""
    )
    assert line.ttft_ms > 0


def test_a_flash_row_follows_its_query(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    query = s.flash("Up?", choices=["up", "down"], name="trend")
    (row,) = flash_rows(stepped, 0.0)
    assert (row.session, row.name, row.text, row.past) == ("btc", "trend", None, ())
    assert math.isnan(row.confidence) and row.age == 0
    s.push("ab")
    run_dry(stepped)
    (row,) = flash_rows(stepped, 0.0)
    assert row.text == query.answer.choice and row.choices[row.choice] == row.text
    assert row.chances == tuple(query.answer.probabilities.values())
    assert (row.age, row.version, row.evaluations, row.state) == (0, 1, len(row.past), "")
    query.pause()
    s.push("cd")
    run_dry(stepped)
    (row,) = flash_rows(stepped, 0.0)
    assert (row.age, row.state) == (1, "paused")


def test_it_remembers_what_flash_queries_answered_before(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    query = s.flash("Up?", choices=["up", "down"])
    for row in ("ab", "cd"):
        s.push(row)
        run_dry(stepped)
    watch = Watch()
    watch.remember(stepped)
    assert [(p.kind, p.context, p.total_ms) for p in watch.points] == [
        ("flash", a.position, a.total_ms) for a in query.answers
    ]
    assert watch.num_points == 2


def test_only_a_change_of_text_is_marked_and_only_for_a_moment(stepped):
    query = stepped.open("btc", cells=200).flash("Last?")
    for time, text in ((10.0, "a"), (11.0, "a"), (12.0, "b"), (13.0, "b")):
        query.record(complete(text, time))
    row = flash_row("btc", query, 12.5)
    assert row.changed and row.past[0].shade == row.past[1].shade
    assert row.past[1].shade != row.past[2].shade
    assert not flash_row("btc", query, 12.0 + JUST_NOW_S).changed


def test_the_first_answer_is_no_change_and_the_past_is_bounded(stepped):
    query = stepped.open("btc", cells=200).flash("Last?")
    query.record(complete("a", 10.0))
    assert not flash_row("btc", query, 10.0).changed
    for i in range(100):
        query.record(complete(str(i), 10.0))
    row = flash_row("btc", query, 10.0)
    assert len(row.past) == PAST and row.evaluations == 101 and row.text == "99"


def complete(text, time):
    answer = Answer("Last?", "btc")
    answer.time = time
    answer.add(1, -0.5)
    answer.show(text)
    answer.end("stop")
    return answer
