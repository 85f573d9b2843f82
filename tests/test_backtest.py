"""A back-test answers as of every moment just what an ask as of it answers, and leaves no trace."""

import numpy as np
import pytest

from workbench.engine.sampler import Sampling
from workbench.errors import Cancelled, EngineClosed, QuestionError, SessionClosed
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, check_books, poison_free_cells, run_until_idle

UP_DOWN = ["up", "down"]


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, limits=StepLimits(tokens=48))


def filled(engine, rows=60, **options):
    session = engine.open("s", **{"cells": 900, **options})
    session.push([f"{i}: {'abcdefg'[: 1 + i % 7]}" for i in range(rows)])
    run_until_idle(engine)
    return session


def test_rows_that_were_dropped_for_newer_ones_end_no_back_test(still):
    session = still.open("s", cells=400, max_pending=1, on_full="drop_oldest")
    session.push("one")
    test = session.backtest_start("so?", choices=UP_DOWN, every=1)
    session.push("two")
    run_until_idle(still)
    assert test.result().finish_reason == "done" and len(test.answers) == 1


def test_every_answer_equals_plain_transformers_over_its_prefix(still):
    session = filled(still)
    poison_free_cells(still)
    tests = [
        session.backtest_start("so?", choices=UP_DOWN, every=7),
        session.backtest_start("so?", max_tokens=3, every=20),
    ]
    while still.step():
        check_books(still)
    for test, rows in zip(tests, ([7, 14, 21, 28, 35, 42, 49, 56], [20, 40, 60]), strict=True):
        assert test.result().frame["row"].to_list() == rows and test.finish_reason == "done"
        for answer in test.answers:
            assert answer.at.number == answer.row
            assert_recomputes(still.decoder.model, answer, 5e-5)
    assert still.core.scratch == 0


def test_the_frame_has_a_probability_per_choice_and_counts_agree(still):
    test = filled(still).backtest_start("so?", choices=UP_DOWN, every=5)
    run_until_idle(still)
    frame = test.result().frame
    assert frame.columns == [
        "row", "version", "position", "text", "choice", "confidence", "p_up", "p_down", "total_ms",
    ]  # fmt: skip
    assert (frame["p_up"] + frame["p_down"]).to_list() == pytest.approx([1.0] * 12)
    assert test.counts() == {c: (frame["choice"] == c).sum() for c in UP_DOWN}
    assert test.total == test.answered == 12
    assert "12 answers" in repr(test) and "done" in repr(test)


def test_moments_that_are_not_there_end_the_back_test_and_nothing_else(still):
    session, other = still.open("s", cells=300), still.open("other", cells=100)
    rows = still.tokens.rows
    still.tokens.rows = lambda texts: (rows(texts)[0], [0, *[-1] * (len(texts) - 1)])
    session.push([str(n) for n in range(9)])
    run_until_idle(still)
    test = session.backtest_start("so?", choices=UP_DOWN, every=1)
    answer = other.ask_start("what?", max_tokens=2)
    run_until_idle(still)
    with pytest.raises(QuestionError, match="ends inside a token"):
        test.result()
    assert answer.result().error is None and still.core.scratch == 0


def test_many_moments_share_a_step(still):
    session = filled(still)
    before = still.num_steps
    test = session.backtest_start("?", choices=UP_DOWN, every=1)
    run_until_idle(still)
    assert test.result().answered == 60
    assert still.num_steps - before < 30


def test_it_begins_and_ends_where_it_is_told(still):
    session = filled(still)
    test = session.backtest_start("so?", choices=UP_DOWN, every=4, start=10, end=19)
    run_until_idle(still)
    assert test.frame["row"].to_list() == [10, 14, 18]


def test_in_a_window_it_begins_at_the_first_multiple_that_is_there(still):
    session = still.open("s", cells=240, overflow="rebuild")
    for i in range(60):
        session.push(f"{i}: {'abcdefg'[: 1 + i % 7]}")
        run_until_idle(still)
    gone = session.ingest.first_row
    assert gone > 20
    test = session.backtest_start("so?", choices=UP_DOWN, every=3)
    run_until_idle(still)
    assert test.result().frame["row"].to_list() == [n for n in range(3, 61, 3) if n > gone]
    early = session.backtest_start("so?", choices=UP_DOWN, every=3, start=gone)
    run_until_idle(still)
    with pytest.raises(QuestionError, match=rf"expected moments among its rows {gone + 1} to 60"):
        early.result()


def test_it_waits_for_what_was_pushed_before_it(still):
    session = still.open("s", cells=900)
    session.push(["one", "two"])
    test = session.backtest_start("so?", choices=UP_DOWN, every=1)
    assert test.total == 0 and "under way" in repr(test)
    run_until_idle(still)
    assert test.result().frame["row"].to_list() == [1, 2]


def test_a_question_goes_before_it(still):
    session = filled(still)
    test = session.backtest_start("a longer question?", max_tokens=8, every=1)
    still.step(), still.step()
    answer = session.ask_start("so?", choices=UP_DOWN)
    still.step(), still.step()
    assert answer.done and not test.done
    run_until_idle(still)
    assert test.answered == 60


def test_a_flash_query_does_not_wait_for_all_of_it(still):
    session = filled(still)
    test = session.backtest_start("?", max_tokens=4, every=1)
    query = session.flash("so?", choices=UP_DOWN)
    while query.answer is None:
        assert still.step()
    assert test.answered < 60
    run_until_idle(still)
    assert test.result().answered == 60


def test_cancelling_keeps_what_was_answered(still):
    session = filled(still)
    test = session.backtest_start("so?", max_tokens=4, every=1)
    while test.answered < 5:
        still.step()
    kept = test.answered
    test.cancel()
    run_until_idle(still)
    with pytest.raises(Cancelled, match="answers; what was answered is kept"):
        test.result()
    assert test.finish_reason == "cancelled" and kept <= test.answered == test.frame.height < 60
    assert still.core.scratch == 0
    check_books(still)


def test_closing_the_session_ends_it_with_the_reason(still):
    session = filled(still)
    test = session.backtest_start("so?", max_tokens=4, every=1)
    while not test.answered:
        still.step()
    session.close()
    run_until_idle(still)
    with pytest.raises(SessionClosed):
        test.result()
    assert test.finish_reason == "error" and test.answered


def test_rows_that_do_not_come_end_it(still):
    session = still.open("s", cells=900)
    session.push("one")
    test = session.backtest_start("so?", choices=UP_DOWN)
    session.close()
    with pytest.raises(SessionClosed):
        test.result(1)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"start": 0}, {"end": -1}, {"every": "3"}])
def test_wrong_numbers_are_refused_at_once(still, wrong):
    with pytest.raises(QuestionError, match=r"expected a number of rows, 1 or more"):
        filled(still).backtest_start("so?", choices=UP_DOWN, **wrong)


def test_too_few_rows_are_one_clear_error(still):
    test = filled(still, rows=3).backtest_start("so?", choices=UP_DOWN, every=10)
    run_until_idle(still)
    with pytest.raises(QuestionError, match="among its rows 1 to 3"):
        test.result()


def test_closing_the_engine_ends_it(make_engine):
    engine = make_engine(start=False)
    test = filled(engine).backtest_start("so?", max_tokens=4, every=1)
    engine.step()
    engine.close()
    assert test.done and test.finish_reason == "error"


def test_an_engine_that_closes_as_the_last_of_a_round_is_answered_ends_it(make_engine):
    engine = make_engine(start=False, cells=4096)
    test = filled(engine).backtest_start("so?", choices=UP_DOWN, every=1)
    engine._read_inbox()
    post = engine.post

    def closed(command):
        raise EngineClosed("closed just now")

    engine.post = closed
    while test._running:
        engine.step()
    assert test.done and test.finish_reason == "error" and 1 <= test.answered <= 32
    with pytest.raises(EngineClosed):
        test.result()
    engine.post = post


def test_a_tick_that_became_visible_just_before_never_runs_in_the_callers_thread(still):
    session = filled(still, rows=4)
    tick = session.push("one more")
    run_until_idle(still)
    from workbench.backtest import Backtest

    words = session._words("so?")
    test = Backtest(still, session.ingest, "so?", words, (), [], Sampling(1), 1)
    test.begin_after(tick)
    assert test.total == 0  # not before the engine's next step
    run_until_idle(still)
    assert test.result().answered == 5


async def _await(test):
    return await test


def test_it_can_be_waited_for_with_progress_and_awaited(engine, capsys):
    import asyncio

    session = engine.open("s", cells=900)
    session.push([f"{i}" for i in range(40)])
    test = session.backtest("so?", choices=UP_DOWN, every=np.int64(4))
    assert test.answered == 10
    assert "back-test: 100%" in capsys.readouterr().err
    again = asyncio.run(_await(session.backtest_start("so?", choices=UP_DOWN, every=4)))
    assert again.frame.drop("total_ms").equals(test.frame.drop("total_ms"))


def test_the_bar_ends_when_it_fails(engine, monkeypatch):
    from tqdm import tqdm

    ends = []

    class Bar(tqdm):
        def close(self):
            ends.append(self.n)
            super().close()

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    session = engine.open("s", cells=900)
    session.push("one").wait()
    with pytest.raises(QuestionError) as raised:
        session.backtest("so?", choices=UP_DOWN, every=10)
    assert ends and raised.tb  # which holds the bar: it was not closed for being dropped
