import math

import pytest

from workbench.answer import Answer
from workbench.errors import WorkbenchError
from workbench.events import Committed, Planned, SessionOpened
from workbench.notebook.view_model import (
    BUCKET_S,
    PAST,
    WINDOW_S,
    Answers,
    Colours,
    EngineLine,
    Recent,
    SessionRow,
    Watch,
    answers_of,
    flash_row,
)


def planned(time, tokens):
    return Planned(
        time=time, step=1, decode=0, question=0, ingest=tokens, flash=0, num_slices=1,
        duration_s=0.1,
    )  # fmt: skip


def complete(text, time=1.0):
    answer = Answer("Last?", "btc")
    answer.time = time
    answer.add(1, -0.5)
    answer.show(text)
    answer.end("stop")
    return answer


def test_rates_are_over_the_last_five_seconds():
    recent = Recent()
    for time, tokens in ((0.0, 1000), (96.0, 30), (99.0, 20), (99.5, 0)):
        recent.add(time, tokens)
    assert recent.rate(100.0) == 10.0 and recent.worst(100.0) == 30
    assert recent.rate(200.0) == 0.0 and math.isnan(recent.worst(200.0))


def test_what_is_recent_takes_bounded_memory():
    recent = Recent()
    for i in range(10_000):
        recent.add(i / 100, 1.0)
    assert len(recent._buckets) <= WINDOW_S / BUCKET_S + 1
    assert recent.rate(100.0) == pytest.approx(100.0, rel=2 * BUCKET_S / WINDOW_S)


def test_the_engine_line_counts(stepped, run_dry):
    s = stepped.open("btc", cells=100)
    watch = Watch()
    s.push("ab")
    run_dry(stepped)
    s.ask_start("Up?", max_tokens=1)
    run_dry(stepped)
    for time in (99.0, 99.2):
        watch.take(planned(time, 25))
    assert watch.engine_line(stepped, 100.0) == EngineLine(
        stepped.model_name, "float32", "cpu", 2048 - 100, 2048, 10.0, 0.4, 1, 0
    )


def test_a_session_row_is_what_the_session_says(stepped, run_dry):
    s = stepped.open("btc", cells=100)
    watch = Watch()
    stepped.events.subscribe(watch.take)
    s.push(["ab", "cd"])
    (waiting,) = watch.session_rows(stepped, 0.0)
    assert (waiting.waiting, waiting.version) == (2, 0)
    assert math.isnan(waiting.lag_ms) and math.isnan(waiting.worst_lag_ms)
    run_dry(stepped)
    (row,) = watch.session_rows(stepped, 0.0)
    lag = row.lag_ms
    expected = SessionRow(
        "btc", 0, s.position, 100, "error", 2, row.rows_rate, 1, 0, 0, lag, lag, "", ""
    )
    assert row == expected and lag > 0
    s.close()
    assert watch.session_rows(stepped, 0.0) == [] and watch._commits == {}


def test_rows_per_second_and_the_worst_lag_of_the_last_seconds(stepped):
    stepped.open("btc", cells=100)
    watch = Watch()
    watch.take(SessionOpened(session="btc", budget=100))
    for time, rows, lag_s in ((90.0, 5, 9.0), (98.0, 15, 0.3), (99.0, 25, 0.1)):
        watch.take(
            Committed(session="btc", time=time, version=1, position=1, rows=rows, lag_s=lag_s)
        )
    (row,) = watch.session_rows(stepped, 100.0)
    assert (row.rows_rate, row.lag_ms, row.worst_lag_ms) == (4.0, 100.0, 300.0)


def test_a_fork_has_not_had_the_rows_that_it_began_with_just_now(stepped, run_dry):
    watch = Watch()
    parent = stepped.open("btc", cells=200)
    parent.push(["a", "b", "c", "d"])
    run_dry(stepped)
    seen = []
    stepped.events.subscribe(lambda event: (seen.append(event), watch.take(event)))
    fork = parent.fork("what-if")
    fork.push("e")
    run_dry(stepped)
    _, row = watch.session_rows(stepped, seen[-1].time)
    assert (row.rows, row.rows_rate) == (5, 1 / WINDOW_S)


def test_a_session_seen_first_at_a_tick_has_not_had_all_its_rows_just_now(stepped):
    stepped.open("btc", cells=100)
    watch = Watch()
    for time, rows in ((99.0, 5_000), (99.5, 5_001)):
        watch.take(Committed(session="btc", time=time, version=1, position=1, rows=rows, lag_s=0.1))
    (row,) = watch.session_rows(stepped, 100.0)
    assert row.rows_rate == 1 / WINDOW_S


def test_a_tick_of_no_session_is_harmless():
    Watch().take(Committed(version=1, position=1, rows=1, lag_s=0.1))


def test_a_session_that_stands_still_says_why(stepped):
    s = stepped.open("btc", cells=100)
    s.ingest.error = WorkbenchError("the disk is full")
    (row,) = Watch().session_rows(stepped, 0.0)
    assert (row.state, row.detail) == ("stands still", "the disk is full")
    s.ingest.error = None


def test_an_evicted_session_says_what_it_takes_to_return(stepped, run_dry):
    for name in ("old", "new"):
        stepped.open(name, cells=1200, evictable=True).push("ab")
        run_dry(stepped)
    row = Watch().session_rows(stepped, 0.0)[0]
    assert (row.state, row.tokens) == ("evicted", 0)
    assert row.detail.startswith("others have its cells; about ")


def test_a_session_keeps_its_colour_while_it_is_open():
    colours = Colours()
    assert colours.of("abc") == {"a": 0, "b": 1, "c": 2}
    assert colours.of("bc") == {"b": 1, "c": 2}
    assert colours.of("bcda") == {"b": 1, "c": 2, "d": 0, "a": 3}


def test_a_flash_row_follows_its_query(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    query = s.flash("Up?", choices=["up", "down"], name="trend")
    assert repr(answers_of(query)) == repr(Answers())  # nan is not equal to itself
    s.push("ab")
    run_dry(stepped)
    seen = answers_of(query)
    assert seen.text == query.answer.choice and query.choices[seen.choice] == seen.text
    assert seen.chances == tuple(query.answer.probabilities.values())
    assert (seen.version, seen.evaluations, len(seen.past)) == (1, 1, 1)
    query.pause()
    s.push("cd")
    run_dry(stepped)
    row = flash_row(s, query, seen)
    assert (row.session, row.name, row.age, row.paused) == ("btc", "trend", 1, True)
    assert (row.error, row.state) == ("", "")
    query.error = WorkbenchError("no room")
    assert flash_row(s, query, seen).error == "no room"


def test_nothing_is_looked_at_again_without_a_new_answer(stepped):
    query = stepped.open("btc", cells=200).flash("Last?")
    query.record(complete("a"))
    seen = answers_of(query)
    assert answers_of(query, seen) is seen


def test_changes_of_text_are_counted_also_between_two_looks(stepped):
    query = stepped.open("btc", cells=200).flash("Last?")
    seen = answers_of(query)
    assert seen.changes == 0
    counts = []
    for texts in ("a", "a", "b", "cb", "bb", "bcb"):  # the answers between two looks
        for text in texts:
            query.record(complete(text))
        seen = answers_of(query, seen)
        counts.append(seen.changes)
    assert counts == [0, 0, 1, 3, 3, 5]
    assert [answer.shade for answer in seen.past[:2]] == [seen.past[0].shade] * 2
    assert seen.past[1].shade != seen.past[2].shade


def test_what_was_answered_before_the_first_look_is_no_change(stepped):
    query = stepped.open("btc", cells=200).flash("Last?")
    for i in range(100):
        query.record(complete(str(i)))
    seen = answers_of(query)
    assert (seen.changes, len(seen.past), seen.evaluations, seen.text) == (0, PAST, 100, "99")
