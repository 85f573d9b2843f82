"""Standing questions: newest version wins, superseded work is dropped, a matching ask is free."""

import gc
import threading
import time
import weakref

import polars as pl
import pytest

import workbench as wb
from workbench.errors import QuestionError, SessionClosed
from workbench.events import FlashAnswered
from workbench.flash.board import MAX_DROPS_IN_A_ROW
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, run_until_idle, tiny_model


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, limits=StepLimits(tokens=64))


def test_it_is_answered_again_after_each_version(still):
    session = still.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    versions = []
    for i in range(4):
        session.push(f"row {i}")
        run_until_idle(still)
        versions.append(query.version)
        assert query.is_fresh and query.age == 0
    assert versions == [1, 2, 3, 4]
    for answer in query.answers:
        assert_recomputes(still.decoder.model, answer, 1e-4)


def test_the_history_goes_back_further_than_the_answers_that_are_kept_whole(still, monkeypatch):
    monkeypatch.setattr("workbench.flash.query.KEPT", 2)
    session = still.open("s", cells=400)
    closed = session.flash("up?", choices=["up", "down"])
    free = session.flash("what?", max_tokens=2)
    for i in range(5):
        session.push(f"row {i}")
        run_until_idle(still)
    for query in (closed, free):
        assert [answer.version for answer in query.answers] == [4, 5]
        assert query.history["version"].to_list() == [1, 2, 3, 4, 5]
        last = query.history.row(-1, named=True)
        assert (last["text"], last["choice"]) == (query.answer.text, query.answer.choice)
        assert last["confidence"] == query.answer.confidence
    assert closed.history.row(-1, named=True)["p_up"] == closed.answer.probabilities["up"]


def test_nobody_waits_for_a_query_that_rests(engine):
    session = engine.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    session.push("one").wait(60)
    query.wait(60)
    query.pause()
    session.push("two").wait(60)
    with pytest.raises(QuestionError, match=r"'up\?' is paused; query.resume\(\) goes on"):
        query.wait(60)
    raised = []

    def wait():
        try:
            query.wait(60)
        except QuestionError as error:
            raised.append(error)

    query.resume()
    assert query.wait(60).version == 2
    idle = engine.open("t", cells=100).flash("up?", choices=["up", "down"])
    query = idle  # nothing has come: it waits for the first row, until somebody pauses it
    waiting = threading.Thread(target=wait)
    waiting.start()
    idle.pause()
    waiting.join(60)
    assert len(raised) == 1


def test_history_is_a_frame_of_every_answer(still):
    session = still.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    assert query.history.is_empty() and "p_up" in query.history.columns
    for i in range(3):
        session.push(f"row {i}")
        run_until_idle(still)
    frame = query.history
    assert frame["version"].to_list() == [1, 2, 3] == frame["row"].to_list()
    assert frame["position"].is_sorted() and frame.schema["time"] == pl.Datetime("us")
    assert (frame["p_up"] + frame["p_down"]).to_list() == pytest.approx([1, 1, 1])
    assert (
        frame["confidence"].to_list()
        == frame.select(pl.max_horizontal("p_up", "p_down").alias("m"))["m"].to_list()
    )


def test_a_matching_ask_is_served_without_a_step(still):
    session = still.open("s", cells=400)
    closed = session.flash("up?", choices=["up", "down"])
    free = session.flash("last?", max_tokens=6)
    session.push("row")
    run_until_idle(still)
    steps = still.num_steps
    served = session.ask("up?", choices=["up", "down"])
    assert served.from_flash and served.probabilities == closed.answer.probabilities
    assert session.ask("last?", max_tokens=6).text == free.answer.text
    assert still.num_steps == steps
    assert served.ttft_ms == served.total_ms > 0 and served.queue_ms == 0
    assert still.stats().flash_hits == 2


@pytest.mark.parametrize("options", [
    {"question": "down?", "choices": ["up", "down"]},
    {"question": "up?", "choices": ["down", "up"]},
    {"question": "up?"},
    {"question": "last?", "max_tokens": 5},
    {"question": "last?", "max_tokens": 6, "stop": "x"},
    {"question": "last?", "max_tokens": 6, "temperature": 1.0},
])  # fmt: skip
def test_an_ask_that_differs_is_computed(still, options):
    session = still.open("s", cells=400)
    session.flash("up?", choices=["up", "down"])
    session.flash("last?", max_tokens=6)
    session.push("row")
    run_until_idle(still)
    answer = session.ask_start(**options)
    assert not answer.done
    run_until_idle(still)
    assert not answer.from_flash and answer.error is None


def test_a_stale_answer_is_not_served(still):
    session = still.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    session.push("row")
    run_until_idle(still)
    session.push("another")
    answer = session.ask_start("up?", choices=["up", "down"])
    assert not answer.done and query.is_fresh
    run_until_idle(still)
    assert answer.version == 2 and not answer.from_flash


def test_superseded_evaluations_are_dropped_but_not_for_ever(still):
    session = still.open("s", cells=900)
    run_until_idle(still)
    query = session.flash("tell me?", max_tokens=9)
    for i in range(12):  # a new version with every step, faster than an answer of nine tokens
        session.push(f"row {i}")
        still.step()
    assert query.dropped >= MAX_DROPS_IN_A_ROW
    assert query.evaluations > 0 and not query.is_fresh
    run_until_idle(still)
    assert query.is_fresh
    for answer in query.answers:
        assert_recomputes(still.decoder.model, answer, 1e-4)


def test_pausing_resuming_removing(still):
    session = still.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    session.push("row")
    run_until_idle(still)
    query.pause()
    session.push("row")
    run_until_idle(still)
    assert query.age == 1 and query.paused
    query.resume()
    run_until_idle(still)
    assert query.is_fresh
    query.remove()
    session.push("row")
    run_until_idle(still)
    assert session.flash_queries == [] and query.evaluations == 2 and len(query.history) == 2


def test_closing_the_session_ends_its_queries(still):
    session = still.open("s", cells=400)
    query = session.flash("tell me?", max_tokens=9)
    session.push("row")
    still.step()
    still.step()
    session.close()
    run_until_idle(still)
    assert query.removed and still.pool.num_free == still.pool.num_cells
    query.remove()
    with pytest.raises(SessionClosed, match="its session is closed"):
        query.wait(1)


def test_nobody_waits_for_a_query_of_an_engine_that_is_closed(make_engine):
    engine = make_engine()
    query = engine.open("s", cells=400).flash("up?", choices=["up", "down"])
    ended = []

    def wait():
        with pytest.raises(SessionClosed, match="its session is closed") as error:
            query.wait(60)
        ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    engine.close()
    thread.join(30)
    assert len(ended) == 1 and query.removed
    with pytest.raises(SessionClosed):
        query.wait(60)


def test_waiting_for_an_answer(make_engine):
    session = make_engine().open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    with pytest.raises(TimeoutError, match="has no answer after"):
        query.wait(0.01)
    session.push("row").wait(30)
    assert query.wait(30).version == 1


def test_changes_are_reported_outside_the_engine_thread(make_engine, capsys):
    engine = make_engine()
    session = engine.open("s", cells=400)
    called, threads = threading.Event(), []

    def on_change(query):
        threads.append(threading.current_thread().name)
        called.set()
        raise ValueError("my own bug")

    query = session.flash("up?", choices=["up", "down"], on_change=on_change)
    seen = []
    engine.events.subscribe(lambda e: seen.append(e) if isinstance(e, FlashAnswered) else None)
    session.push("row")
    session.flush(30)
    assert called.wait(30)
    assert threads[0] == "workbench-on-change"
    session.push("row").wait(30)
    assert session.ask("something else?", max_tokens=1, timeout=30).error is None
    engine.board.close()
    engine.board._caller.join(30)
    assert "my own bug" in capsys.readouterr().err
    assert query in session.flash_queries


def test_an_evaluation_that_fails_is_tried_again_with_the_next_version(still, monkeypatch):
    session = still.open("s", cells=400)
    query = session.flash("up?", choices=["up", "down"])
    forward = still._forward

    def failing(parts):
        if any(part.sequence is not session.ingest.sequence for part in parts):
            raise RuntimeError("kernel fault")
        return forward(parts)

    with monkeypatch.context() as patch:
        patch.setattr(still, "_forward", failing)
        session.push("row")
        run_until_idle(still)
    assert isinstance(query.error, QuestionError) and query.answer is None
    session.push("row")
    run_until_idle(still)
    assert query.is_fresh and query.error is None


def test_questions_come_before_flash_queries(still):
    session = still.open("s", cells=400)
    session.push("row")
    run_until_idle(still)
    query = session.flash("tell me?", max_tokens=9)
    answer = session.ask_start("first?", max_tokens=5)
    while not answer.done:
        assert still.step()
    assert query.evaluations == 0
    run_until_idle(still)
    assert query.is_fresh


def test_who_waits_gets_the_evaluation_under_way_not_the_error_of_one_before(still, monkeypatch):
    session = still.open("s", cells=400)
    query = session.flash("up?", max_tokens=4)
    session.push("row 1")
    still.step()

    def fails(_):
        raise RuntimeError("once")

    with monkeypatch.context() as patch:
        patch.setattr(still.decoder, "forward", fails)
        still.step()
    assert "once" in str(query.error)
    with pytest.raises(QuestionError, match="once"):
        query.wait(1)
    session.push("row 2")
    while not session.ingest.questions:
        still.step()
    with pytest.raises(TimeoutError):
        query.wait(0.01)
    run_until_idle(still)
    assert query.error is None and query.wait(1).version == 2


def test_a_callback_keeps_no_engine_alive():
    def used():
        engine = wb.Engine((model, tokenizer), cells=600)
        called = threading.Event()
        session = engine.open("s", cells=300)
        session.flash("up?", choices=["up", "down"], on_change=lambda _: called.set())
        session.push("row").wait(60)
        assert called.wait(60)
        return weakref.ref(engine), engine.board._caller

    model, tokenizer = tiny_model()
    engine, thread = used()

    deadline = time.monotonic() + 20
    while (engine() is not None or thread.is_alive()) and time.monotonic() < deadline:
        gc.collect()
    assert engine() is None and not thread.is_alive()


def test_a_callback_may_fail_on_another_engine_and_is_called_again(still, make_engine, capfd):
    session, other = still.open("s", cells=400), make_engine(start=False).open("t", cells=100)
    other.engine.close()
    calls = []

    def alert(query):
        calls.append(query.version)
        other.push("it moved")

    query = session.flash("what?", max_tokens=3, on_change=alert)
    texts, deadline = set(), time.monotonic() + 20
    for row in ("row 1", "another row", "and a third 3"):
        session.push(row)
        run_until_idle(still)
        texts.add(query.answer.text)
        while len(calls) < len(texts) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(calls) == len(texts) > 1
    said = capfd.readouterr().err
    assert said.count("on_change of flash query 'what?' raised EngineClosed") == len(calls)
