"""Isolation of faults, cancellation, shutdown: each error reaches its caller and nobody else."""

import gc
import threading
import weakref

import pytest

import workbench as wb
from workbench.engine.admission import SessionSpec
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    EngineClosed,
    QuestionError,
    SessionClosed,
    SessionExists,
    SessionFaulted,
    WorkbenchError,
)
from workbench.events import Committed, Planned, TokenOut
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    assert_recomputes,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)


@pytest.fixture
def still(make_engine):
    """An engine without a thread, small steps."""
    return make_engine(start=False, limits=StepLimits(tokens=16, target_ms=0, ingest_floor=4))


def break_when(engine, monkeypatch, is_bad):
    """Make the forward fail for batches with a part that ``is_bad``."""
    forward = engine._forward

    def failing(parts):
        if any(is_bad(part) for part in parts):
            msg = "kernel fault"
            raise RuntimeError(msg)
        return forward(parts)

    monkeypatch.setattr(engine, "_forward", failing)


def test_one_step_mixes_decode_prefill_and_ingestion_of_several_sessions(still):
    planned = []
    still.events.subscribe(lambda e: planned.append(e) if isinstance(e, Planned) else None)
    a, b = still.open("a", cells=200), still.open("b", cells=200)
    a.push("first"), b.push("first")
    run_until_idle(still)
    one = a.ask_start("q?", max_tokens=8)
    still.step()
    two = b.ask_start("longer?", max_tokens=2)
    a.push("more data here")
    still.step()
    assert planned[-1].decode == 1 and planned[-1].question > 1 and planned[-1].ingest == 4
    assert set(planned[-1].shares) == {
        ("a", "decode", 1), ("b", "question", planned[-1].question), ("a", "ingest", 4),
    }  # fmt: skip
    assert sum(e.ingest for e in planned) == sum(
        share.tokens for e in planned for share in e.shares if share.phase == "ingest"
    )
    run_until_idle(still)
    assert one.done and two.done
    for answer in (one, two):
        assert_recomputes(still.decoder.model, answer, 1e-4)


def test_questions_see_whole_ticks_only(still):
    session = still.open("s", cells=400)
    session.push("0123456789" * 5)
    still.step()
    assert session.cells_used > 0 and session.version == 0 and session.position <= 1
    early = session.ask_start("q?", max_tokens=1, fresh=False)
    late = session.ask_start("q?", max_tokens=1)
    run_until_idle(still)
    assert (early.version, late.version) == (0, 1)
    assert early.position < late.position == session.position
    assert late.row == 1


def test_versions_count_ticks_and_events_carry_them(still):
    seen = []
    still.events.subscribe(lambda e: seen.append(e) if isinstance(e, Committed) else None)
    session = still.open("s", prompt="a prompt is no version", cells=400)
    ticks = [session.push([f"row {i}", "x"]) for i in range(5)]
    run_until_idle(still)
    assert [t.version for t in ticks] == [1, 2, 3, 4, 5] == [e.version for e in seen]
    assert [e.rows for e in seen] == [2, 4, 6, 8, 10]
    assert seen[-1].position == session.position == len(session.token_ids)
    assert all(e.lag_s >= 0 for e in seen)


def test_a_failing_question_fails_alone(still, monkeypatch):
    session = still.open("s", cells=200)
    session.push("data")
    run_until_idle(still)
    good = session.ask_start("good?", max_tokens=4)
    bad = session.ask_start("bad?", max_tokens=4)
    tick = session.push("more")
    marker = still.tokens.question("bad?")
    break_when(still, monkeypatch, lambda part: list(part.ids) == marker)
    run_until_idle(still)
    assert good.error is None and tick.version == 2
    assert_recomputes(still.decoder.model, good, 1e-4)
    assert bad.finish_reason == "error"
    with pytest.raises(QuestionError, match="kernel fault"):
        bad.result()


def test_a_failing_ingestion_keeps_its_rows_and_its_neighbours(still, monkeypatch):
    broken, fine = still.open("broken", cells=200), still.open("fine", cells=200)
    run_until_idle(still)
    broken_sequence = broken.ingest.sequence
    with monkeypatch.context() as patch:
        break_when(still, patch, lambda part: part.sequence is broken_sequence)
        lost, kept = broken.push("precious"), fine.push("data")
        run_until_idle(still)
    assert kept.version == 1
    with pytest.raises(SessionFaulted, match="1 rows are still queued, session.retry"):
        lost.wait(0)
    with pytest.raises(SessionFaulted):
        broken.push("refused, not lost")
    with pytest.raises(SessionFaulted):
        broken.flush()
    seen = broken.ask_start("what was before?", max_tokens=1, fresh=False)
    run_until_idle(still)
    assert seen.version == 0 and seen.error is None
    broken.retry()
    run_until_idle(still)
    assert lost.wait(0) == 1 and broken.error is None and broken.rows == 1
    assert_recomputes(still.decoder.model, seen, 1e-4)


def test_jobs_run_alone_after_a_failure_do_not_overwrite_one_another(still, monkeypatch):
    """As on a GPU, where a graph writes the logits of every step of a kind to one place."""
    sessions = [still.open(name, cells=60) for name in "ab"]
    for n, session in enumerate(sessions):
        session.push(f"row {n}")
    run_until_idle(still)
    forward, place = still.decoder.forward, {}

    def into_one_place(step):
        if len(step.labels) > 1:
            raise RuntimeError("out of memory")
        values = forward(step)
        return place.setdefault(values.shape, values.clone()).copy_(values)

    monkeypatch.setattr(still.decoder, "forward", into_one_place)
    answers = [s.ask_start("what?", max_tokens=3, temperature=1.0, seed=7) for s in sessions]
    run_until_idle(still)
    monkeypatch.undo()
    for session, answer in zip(sessions, answers, strict=True):
        again = session.ask_start("what?", max_tokens=3, temperature=1.0, seed=7)
        run_until_idle(still)
        assert answer.result().token_ids == again.result().token_ids
        assert answer.logprobs == pytest.approx(again.logprobs, abs=1e-4)


def test_logits_that_are_not_finite_are_an_error_not_an_answer(still):
    session = still.open("s", cells=100)
    session.push("data")
    run_until_idle(still)
    cells = session.ingest.sequence.slots(0, session.position)
    still.cells.fill(cells, float("nan"))
    answer = session.ask_start("q?", max_tokens=3)
    run_until_idle(still)
    with pytest.raises(QuestionError, match="not finite"):
        answer.result()


def test_cancelling_keeps_the_text_and_frees_the_cells(still):
    session = still.open("s", cells=100)
    session.push("data")
    run_until_idle(still)
    free = still.pool.num_free
    answer = session.ask_start("q?", max_tokens=30)
    for _ in range(4):
        still.step()
    tokens = len(answer.token_ids)
    assert tokens > 1 and still.pool.num_free < free
    answer.cancel()
    still.step()
    assert answer.finish_reason == "cancelled" and len(answer.token_ids) == tokens
    assert still.pool.num_free == free
    with pytest.raises(Cancelled, match=f"after {tokens} tokens"):
        answer.result()
    assert list(answer) == [answer.text]
    answer.cancel()  # again does nothing


def test_cancelling_before_the_first_step(still):
    session = still.open("s", cells=100)
    answer = session.ask_start("q?")
    answer.cancel()
    run_until_idle(still)
    with pytest.raises(Cancelled):
        answer.result()


def test_closing_a_session_in_mid_answer_ends_only_its_own_work(still):
    a, b = still.open("a", cells=100), still.open("b", cells=100)
    a.push("data"), b.push("data")
    run_until_idle(still)
    mine, other = a.ask_start("q?", max_tokens=9), b.ask_start("q?", max_tokens=9)
    still.step()
    tick = a.push("never read")
    late = a.ask_start("q after the tick?", max_tokens=9)
    still.step()
    a.close()
    run_until_idle(still)
    for ended in (mine, late):
        with pytest.raises(SessionClosed):
            ended.result()
    with pytest.raises(SessionClosed):
        tick.wait(0)
    assert_recomputes(still.decoder.model, other.result(), 1e-4)
    with pytest.raises(SessionClosed, match="open it again"):
        a.push("x")
    with pytest.raises(SessionClosed):
        a.ask("x")
    assert "closed" in repr(a)
    a.close()


def test_closing_the_engine_ends_everything_that_waits(still):
    session = still.open("s", cells=100)
    answer, tick = session.ask_start("q?"), session.push("x")
    still.close()
    for call in (answer.result, lambda: tick.wait(0), lambda: session.ask("q?"),
                 lambda: session.push("x"), lambda: still.open("t")):  # fmt: skip
        with pytest.raises(EngineClosed):
            call()
    assert "closed" in repr(still)
    still.close()


def test_the_thread_ends_with_the_engine(engine):
    session = engine.open("s", cells=900)
    session.push("data " * 100)
    answer = session.ask_start("q?", max_tokens=60)
    engine.close()
    assert not engine._thread.is_alive()
    assert answer.done and engine.sessions == {}


def test_a_forgotten_engine_is_collected_and_its_thread_ends():
    engine = wb.Engine(tiny_model(), cells=256)
    engine.open("s", cells=100).push("x").wait(30)
    ref, thread = weakref.ref(engine), engine._thread
    assert thread.daemon
    engine._wake.set()
    del engine
    for _ in range(200):
        gc.collect()
        if ref() is None:
            break
        threading.Event().wait(0.05)
    assert ref() is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_bug_in_a_step_leaves_nobody_waiting(engine, monkeypatch, capsys):
    session = engine.open("s", cells=100)
    session.flush(30)

    def bug(*_):
        raise AssertionError("a bug")

    monkeypatch.setattr(engine.scheduler, "plan", bug)
    with pytest.raises(EngineClosed, match="a bug"):
        session.ask("q?", timeout=30)
    assert "a bug" in capsys.readouterr().err


def test_admission_refuses_with_the_numbers(still):
    still.open("a", cells=1000)
    with pytest.raises(
        CellsExhausted,
        match=r"session 'b' needs 1,500 cells, 536 of 2,048 .*512 are kept.*held by 'a' 1,000",
    ):
        still.open("b", cells=1500)
    assert list(still.sessions) == ["a"]
    still.open("b", cells=536)
    with pytest.raises(CellsExhausted):
        still.open("c", cells=2)


def test_a_name_taken_meanwhile_is_refused_where_sessions_are_added(still):
    still.open("s", cells=50)
    free = still.pool.num_free
    with pytest.raises(SessionExists, match="is open; close it first"):
        still.admission.open(SessionSpec("s", 50, []))
    assert still.pool.num_free == free


def test_a_question_larger_than_the_watermark_is_refused_at_once(still):
    session = still.open("s", cells=100)
    answer = session.ask_start("q?", max_tokens=600)
    run_until_idle(still)
    with pytest.raises(CellsExhausted, match="questions have 512; shorten it, lower max_tokens"):
        answer.result()


def test_a_question_past_the_models_positions_is_refused(make_engine):
    model = tiny_model(max_position_embeddings=128)
    engine = make_engine(model=model, start=False, watermark=500)
    with pytest.raises(CellsExhausted, match="at most the 128 positions of the model"):
        engine.open("big", cells=129)
    session = engine.open("s", cells=128)
    session.push("x" * 100)
    run_until_idle(engine)
    answer = session.ask_start("question?", max_tokens=30)
    run_until_idle(engine)
    with pytest.raises(QuestionError, match="the model has 128 positions"):
        answer.result()
    fits = session.ask_start("q?", max_tokens=5)
    run_until_idle(engine)
    assert fits.result().error is None


def test_a_question_that_rows_have_overtaken_is_refused_when_it_would_begin(make_engine):
    engine = make_engine(model=tiny_model(max_position_embeddings=128), start=False, watermark=500)
    session = engine.open("s", cells=128)
    session.push("x" * 100)
    answer = session.ask_start("question?", max_tokens=30)  # its session is at position 0 yet
    fits = session.ask_start("q?", max_tokens=5)
    run_until_idle(engine)
    with pytest.raises(QuestionError, match="the model has 128 positions"):
        answer.result()
    assert fits.result().error is None
    assert engine.core.scratch == 0


def test_more_questions_than_scratch_cells_all_complete(still):
    session = still.open("s", cells=100)
    session.push("data")
    answers = [session.ask_start(f"question {i}?", max_tokens=40) for i in range(40)]
    run_until_idle(still)
    assert all(a.result().finish_reason in ("stop", "length") for a in answers)
    assert {len(a.token_ids) for a in answers} <= set(range(1, 41))


@pytest.mark.parametrize(("options", "error"), [
    ({"name": "has space"}, "without spaces"),
    ({"name": "s", "on_full": "explode"}, "expected 'block', 'raise' or 'drop_oldest'"),
    ({"name": "s", "max_pending": 0}, "at least 1 row"),
    ({"name": "s", "max_pending": 2.5}, "max_pending=2.5: expected a whole number"),
    ({"name": "s", "cells": 1e2}, "cells=100.0: expected a whole number"),
    ({"name": "s", "overflow": "rebuild", "window": 9.0}, "window=9.0: expected a whole number"),
    ({"name": "s", "wait": "soon"}, "expected True, False or a number of seconds"),
    ({"name": "s", "cells": 1, "prompt": "x"}, "prompt takes"),
])  # fmt: skip
def test_bad_options_open_nothing(still, options, error):
    with pytest.raises(WorkbenchError, match=error):
        still.open(**options)
    assert still.sessions == {}
    still.open("s", cells=50)
    with pytest.raises(WorkbenchError, match="is open; use engine.session"):
        still.open("s", cells=50)
    with pytest.raises(WorkbenchError, match=r"no session 'nope' is open \(open: 's'\)"):
        still.session("nope")


@pytest.mark.parametrize("options", [
    {"cells": 10**12}, {"cells": 1}, {"watermark": 0}, {"watermark": 5000}, {"device": "cuda:9"},
])  # fmt: skip
def test_bad_engine_options(options):
    with pytest.raises(WorkbenchError, match="expected|not supported"):
        wb.Engine(tiny_model(), **{"cells": 256, "start": False, **options})


def test_many_threads_at_once(engine):
    session = engine.open("s", cells=1200)
    errors = []

    def work(i):
        try:
            for j in range(3):
                session.push(f"row {i} {j}").wait(60)
                assert session.ask("q?", max_tokens=2, timeout=60).error is None
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == [] and session.rows == 24 == session.version


@pytest.mark.parametrize("kind", [TokenOut, Committed, Planned])
def test_a_session_closed_inside_a_step_ends_only_its_own_work(still, kind):
    """A subscriber runs in the engine thread, in the middle of committing a step."""
    a, b = still.open("a", cells=200), still.open("b", cells=200)
    a.push("data"), b.push("data")
    run_until_idle(still)
    mine, other = a.ask_start("q?", max_tokens=6), b.ask_start("q?", max_tokens=6)
    still.step()
    late = [a.push("more"), b.push("more")]

    def close(event):
        if isinstance(event, kind) and not a.closed:
            a.close()

    still.events.subscribe(close)
    run_until_idle(still)
    assert a.closed and mine.done
    assert_recomputes(still.decoder.model, other.result(), 1e-4)
    assert late[0].done and late[1].version == 2
    poison_free_cells(still)
    after = b.ask_start("and now?", max_tokens=2)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, after, 1e-4)


def test_nobody_starves_beside_a_firehose_and_a_crowd(still):
    """Endless rows in one session, endless questions to another; a third one is slow."""
    firehose = still.open("firehose", cells=600, max_pending=10_000)
    asked, slow = still.open("asked", cells=100), still.open("slow", cells=100)
    asked.push("data")
    run_until_idle(still)
    for number in range(60):
        firehose.push(f"row {number:3}")
    ticks = [slow.push("one"), slow.push("two")]
    query = slow.flash("up?", choices=["up", "down"])
    steps = 0
    while not all(tick.done for tick in ticks):
        asked.ask_start("q?", max_tokens=1)
        still.step()
        steps += 1
    # Ingestion has 4 tokens a step; 8 tokens of the slow session wait for one turn of 64.
    assert steps <= (64 + 8) // 4 + 4 and firehose.pending_rows
    while not query.evaluations:
        still.step()
        steps += 1
        assert steps < 100
    assert firehose.version < 60 or query.is_fresh
    run_until_idle(still)
    assert firehose.version == 60


def test_a_question_preempts_flash_and_ingestion_at_the_next_step(still):
    session = still.open("s", cells=900)
    session.push("data")
    run_until_idle(still)
    for number in range(20):
        session.push(f"a row of some length {number}")
    query = session.flash("what is up?", max_tokens=30)
    still.step()
    planned = []
    still.events.subscribe(lambda e: planned.append(e) if isinstance(e, Planned) else None)
    answer = session.ask_start("q?", max_tokens=3, fresh=False)
    while not answer.done:
        still.step()
    assert planned[0].question > 0
    assert all(e.flash == 0 and e.ingest <= 4 for e in planned)
    assert all(e.limited_by == "floor" for e in planned)
    run_until_idle(still)
    assert query.is_fresh


def test_rows_that_a_question_waits_for_come_before_other_sessions_backlogs(still):
    """An overloaded engine: the question needs 11 tokens of data, others have 1,200 queued."""
    crowd = [still.open(f"s{i}", cells=280, max_pending=1000) for i in range(5)]
    asked = still.open("asked", cells=100)
    run_until_idle(still)
    for number in range(25):
        for session in crowd:
            session.push(f"row {session.name} {number}")
    asked.push("0123456789")
    answer = asked.ask_start("q?", max_tokens=1)
    steps = 0
    while not answer.done:
        still.step()
        steps += 1
    # 8 of 16 tokens a step are for what it waits for.
    assert steps <= 4
    assert min(session.pending_rows for session in crowd) > 20
    run_until_idle(still)
    assert all(session.version == 25 for session in crowd)
