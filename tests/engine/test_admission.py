"""Who gets cells and when: waiting in line, taking turns; whatever is accepted completes."""

import asyncio
import contextlib
import threading
from types import NoneType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    EngineClosed,
    QuestionError,
    SessionClosed,
    SessionExists,
    WorkbenchError,
)
from workbench.events import Evicted, Returned
from workbench.opening import spec_of
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)

BOUND = 5e-5
MODEL = tiny_model()


@pytest.fixture
def still(make_engine):
    """1,000 cells for sessions, 200 for questions."""
    return make_engine(
        model=MODEL, start=False, cells=1200, watermark=200, limits=StepLimits(tokens=32)
    )


def collect(engine, kind):
    seen = []
    engine.events.subscribe(lambda e: seen.append(e) if isinstance(e, kind) else None)
    return seen


def queued(engine, name, cells, **options):
    spec, _ = spec_of(engine, name, cells=cells, **options)
    return engine.admission.queue(spec)


# Waiting in line.


def test_an_opening_waits_until_a_session_is_closed(still):
    first = still.open("first", cells=700)
    opening = queued(still, "second", 500)
    run_until_idle(still)
    assert not opening.done
    first.close()
    run_until_idle(still)
    assert opening.done and opening.session.name == "second" and opening.session.resident


def test_the_line_is_first_come_first_served(still):
    holder = still.open("holder", cells=900)
    large, small = queued(still, "large", 800), queued(still, "small", 50)
    run_until_idle(still)
    assert not large.done and not small.done
    with pytest.raises(CellsExhausted, match=r"2 wait in line for theirs \('large' for 800\)"):
        still.open("pushy", cells=10)
    holder.close()
    run_until_idle(still)
    assert large.done and small.done


def test_whoever_leaves_the_line_lets_the_next_one_in(still):
    still.open("holder", cells=900)
    large, small = queued(still, "large", 800), queued(still, "small", 50)
    still.admission.cancel(large)
    run_until_idle(still)
    assert small.done and not large.done
    with pytest.raises(SessionExists):
        queued(still, "small", 10)


def test_more_than_there_is_does_not_even_wait(still):
    with pytest.raises(CellsExhausted, match="sessions have 1,000 in all"):
        queued(still, "huge", 1001)


def test_open_waits_in_the_callers_thread_with_a_time_limit(make_engine):
    engine = make_engine(model=MODEL, cells=1200, watermark=200)
    first = engine.open("first", cells=700)
    with pytest.raises(TimeoutError):
        engine.open("late", cells=500, wait=0.05)
    assert engine.call(lambda: engine.admission.openings) == []
    threading.Timer(0.1, first.close).start()
    second = engine.open("second", prompt="hello", cells=500, wait=60)
    assert second.ask("what?", max_tokens=2, timeout=60).error is None

    async def too_late():
        with pytest.raises(TimeoutError, match="waited 0.05 s for 900 cells"):
            await engine.open_async("third", cells=900, wait=0.05)
        with pytest.raises(CellsExhausted, match="needs 900 cells"):
            await engine.open_async("third", cells=900, wait=False)
        with pytest.raises(WorkbenchError, match="expected True, False or a number"):
            await engine.open_async("third", cells=900, wait=-1)

    asyncio.run(too_late())
    assert engine.call(lambda: engine.admission.openings) == []

    async def third():
        closing = threading.Thread(target=second.close)
        asyncio.get_running_loop().call_later(0.1, closing.start)
        session = await engine.open_async("third", cells=900)
        return await session.ask_async("what?", max_tokens=2)

    assert asyncio.run(third()).error is None


def test_closing_the_engine_tells_those_in_line(still):
    still.open("first", cells=700)
    opening = queued(still, "second", 500)
    still.close()
    with pytest.raises(EngineClosed):
        opening.join(0)


# Evictable sessions.


def test_an_idle_session_gives_way_and_comes_back_exact(still):
    evicted, returned = collect(still, Evicted), collect(still, Returned)
    idle = still.open("idle", prompt="a prompt", cells=600, evictable=True)
    idle.push("remember 42 and 43 and 44")
    run_until_idle(still)
    position, version = idle.position, idle.version
    firm = still.open("firm", cells=400)
    other = still.open("other", cells=600, evictable=True)
    other.push("something else")
    run_until_idle(still)
    assert not idle.resident and other.resident and "evicted" in repr(idle)
    assert [e.session for e in evicted] == ["idle"] and evicted[0].tokens == position
    assert evicted[0].predicted_return_s > 0 and idle.return_cost_s > 0
    assert (idle.position, idle.version) == (position, version)
    poison_free_cells(still)
    answer = idle.ask_start("what was it?", max_tokens=4)
    tick = idle.push("and 45")
    run_until_idle(still)
    assert tick.version == 2 and [e.session for e in returned] == ["idle"]
    assert_recomputes(MODEL[0], answer, BOUND)
    assert idle.resident and not other.resident and firm.resident
    assert still.stats().evictions == 2 and still.stats().returns == 1


def test_the_longest_unused_goes_first(still):
    sessions = [still.open(f"s{i}", cells=330, evictable=True) for i in range(3)]
    for session in sessions:
        session.push("data")
        run_until_idle(still)
    sessions[0].push("more")
    run_until_idle(still)
    late = still.open("late", cells=330, evictable=True)
    late.push("data")
    run_until_idle(still)
    assert [s.resident for s in sessions] == [True, False, True] and late.resident


def test_a_session_that_nobody_asked_returns_when_there_is_room(still):
    idle = still.open("idle", cells=600, evictable=True)
    idle.push("remember this")
    run_until_idle(still)
    other = still.open("other", cells=600, evictable=True)
    other.push("for a moment")
    run_until_idle(still)
    assert not idle.resident
    other.close()
    run_until_idle(still)
    assert idle.resident and idle.cells_used == idle.position
    assert still.stats().background_tokens == idle.position


def test_a_firm_session_may_not_take_what_an_evictable_one_needs_to_return(still):
    still.open("turns", cells=600, evictable=True)
    with pytest.raises(CellsExhausted, match="needs 500 cells"):
        still.open("firm", cells=500)
    still.open("firm", cells=400)
    with pytest.raises(CellsExhausted):
        still.open("also", cells=700, evictable=True)


def test_a_refused_opening_evicts_nobody(still):
    idle = still.open("idle", cells=500, evictable=True)
    idle.push("data")
    run_until_idle(still)
    still.open("firm", cells=450)
    with pytest.raises(CellsExhausted):
        still.open("more", cells=300)
    assert idle.resident


def test_a_busy_session_hands_over_when_its_turn_is_over(still):
    """Two streams that never pause, with room for one: both get on, whoever asks is answered."""
    a = still.open("a", cells=800, evictable=True, max_pending=1000)
    b = still.open("b", cells=800, evictable=True, max_pending=1000)
    for number in range(60):
        a.push(f"a{number}"), b.push(f"b{number}")
    asked = [a.ask_start("what?", max_tokens=20), b.ask_start("what?", max_tokens=20)]
    for _ in range(4000):
        if a.version == b.version == 60 and all(x.done for x in asked):
            break
        if a.version < 60:
            assert a.pending_rows
        still.step()
        check_books(still)
    assert a.version == b.version == 60
    for answer in asked:
        assert_recomputes(MODEL[0], answer, BOUND)
    assert 1 <= still.stats().evictions <= 20


def test_a_session_whose_only_work_is_questions_hands_over_too(still):
    a = still.open("a", cells=800, evictable=True)
    b = still.open("b", cells=800, evictable=True)
    a.push("data")
    run_until_idle(still)
    b.push("data")
    steps = 0
    while b.version == 0:
        if not a.ingest.questions:
            a.ask_start("what?", max_tokens=3)
        still.step()
        steps += 1
        assert steps < 2000
    run_until_idle(still)


def test_a_faulted_session_can_be_evicted_and_retried(still, monkeypatch):
    a = still.open("a", cells=800, evictable=True)
    a.push("first")
    run_until_idle(still)
    bad = a.ingest.line.sequence
    forward = still._forward

    def failing(parts):
        if any(part.sequence is bad for part in parts):
            msg = "kernel fault"
            raise RuntimeError(msg)
        return forward(parts)

    with monkeypatch.context() as patch:
        patch.setattr(still, "_forward", failing)
        tick = a.push("second")
        run_until_idle(still)
    assert a.error is not None
    b = still.open("b", cells=800, evictable=True)
    b.push("data")
    run_until_idle(still)
    assert b.version == 1 and not a.resident
    a.retry()
    run_until_idle(still)
    assert tick.wait(0) == 2 and a.resident


def test_a_flash_query_of_an_evicted_session_stays_up_to_date(still):
    a = still.open("a", cells=800, evictable=True)
    query = a.flash("up?", choices=["up", "down"])
    b = still.open("b", cells=800, evictable=True)
    for number in range(4):
        a.push(f"row {number}")
        b.push(f"row {number}")
        run_until_idle(still)
    assert query.is_fresh and query.version == 4
    assert_recomputes(MODEL[0], query.answer, BOUND)


# Nothing that was accepted is ever stuck.

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "open",
                "wait",
                "push",
                "push",
                "ask",
                "ask",
                "choose",
                "flash",
                "ask earlier",
                "backtest",
                "stateless",
                "close",
                "generate",
                "cancel",
                "step",
                "step",
            ]
        ),
        st.integers(0, 5),
        st.integers(1, 60),
    ),
    min_size=8,
    max_size=50,
)
HOW = [
    {},
    {"evictable": True},
    {"overflow": "rebuild"},
    {"overflow": "evict"},
    {"overflow": "rebuild", "evictable": True},
    {"evictable": True, "prompt": "one prompt that several sessions have in common"},
]


# A session that comes shares its beginning with a question, and the question ends.
SHARES_WITH_A_QUESTION = [
    *[("push", 0, 1)] * 4, ("push", 0, 13), ("push", 0, 24), ("backtest", 0, 44), ("close", 1, 1),
    ("generate", 0, 1), ("step", 0, 1), ("open", 5, 37),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example(actions=SHARES_WITH_A_QUESTION, tokens=30)
@given(actions=ACTIONS, tokens=st.sampled_from([7, 30, 100]))
def test_whatever_is_accepted_completes_and_the_books_balance_at_every_step(actions, tokens):
    limits = StepLimits(tokens=tokens, target_ms=0, ingest_floor=3, quantum=16, flash_share=4)
    with wb.Engine(MODEL, cells=600, watermark=150, limits=limits, start=False) as engine:
        poison_free_cells(engine)
        play(engine, actions)
    assert engine.pool.num_free == engine.pool.num_cells


def play(engine, actions):
    sessions, waiting, work, answers, tests = [], [], [], [], []
    actions = [("open", 1, 40), ("open", 4, 30), *actions]
    for number, (action, which, size) in enumerate(actions):
        waiting = settle(engine, waiting, sessions)
        open_ones = [s for s in sessions if not s.closed]
        session = open_ones[which % len(open_ones)] if open_ones else None
        if action in ("open", "wait"):
            options = {"cells": 80 + 4 * size, **HOW[which]}
            with contextlib.suppress(CellsExhausted):
                if action == "wait":
                    waiting.append(queued(engine, f"s{number}", **options))
                else:
                    sessions.append(engine.open(f"s{number}", **options))
        elif action == "generate":
            prompt = "one prompt that several sessions have in common, and " + "x" * size
            answers.append((engine.generate_start(prompt, max_tokens=1 + size % 7), ""))
        elif action == "step":
            for _ in range(size % 4):
                engine.step()
                check_books(engine)
                if size % 3 == 0:
                    poison_free_cells(engine)
        elif session is None:
            continue
        elif action == "push":
            with contextlib.suppress(CellsExhausted):
                for i in range(1 + size % 5):
                    work.append(session.push(f"{number} {i} " + "abcdefgh" * (size // 20)))
        elif action == "ask":
            answer = session.ask_start(f"{number}?", max_tokens=1 + size % 9, fresh=size % 2 == 0)
            answers.append((answer, session.overflow))
        elif action == "choose":
            answer = session.ask_start("which?", choices=["up", "down", "no idea"])
            answers.append((answer, session.overflow))
        elif action == "ask earlier":
            at = [size, -size, wb.version(size % 4), wb.version(-(size % 3))][which % 4]
            answer = session.ask_start("then?", max_tokens=1 + size % 4, at=at)
            answers.append((answer, session.overflow))
        elif action == "backtest":
            test = session.backtest_start("then?", max_tokens=1 + size % 3, every=1 + size % 4)
            tests.append((test, session.overflow))
            if which == 5:
                test.cancel()
        elif action == "stateless":
            answers.append((session.ask_stateless_start("so?", max_tokens=1 + size % 3), ""))
        elif action == "flash":
            session.flash(f"standing {number}?", max_tokens=1 + size % 4)
        elif action == "cancel" and answers:
            answers[size % len(answers)][0].cancel()
        elif action == "close":
            session.close()
            poison_free_cells(engine)
    steps = 0
    while engine.step():
        check_books(engine)
        waiting = settle(engine, waiting, sessions)
        steps += 1
        assert steps < 20_000, "work goes round in circles"
    waiting = settle(engine, waiting, sessions)
    for tick in work:
        assert tick.done
    for test, overflow in tests:
        assert test.done
        assert test.error is not None or test.answered == test.total > 0
        answers += [(answer, overflow) for answer in test.answers]
    for answer, overflow in answers:
        assert answer.done and may_happen(answer)
        if answer.token_ids and overflow != "evict":
            assert_recomputes(MODEL[0], answer, BOUND, engine.tokens)
    for session in [s for s in sessions if not s.closed]:
        for query in session.flash_queries:
            assert query.is_fresh or session.version == 0
    # Whoever is first in line still cannot have what others were promised for good.
    for opening in waiting[:1]:
        assert not engine.admission._fits_once_others_leave(opening.spec)
    for opening in waiting:
        engine.admission.cancel(opening)
    check_books(engine)


def may_happen(answer):
    """Whether an answer came, or failed as the actions above make one fail: not in computing it."""
    if isinstance(answer.error, QuestionError):  # of a moment that is not there
        return answer.at is not None and answer.error.__cause__ is None and not answer.token_ids
    return isinstance(answer.error, NoneType | SessionClosed | Cancelled | CellsExhausted)


def settle(engine, waiting, sessions):
    """Turn openings that got their cells into sessions."""
    for opening in [o for o in waiting if o.done]:
        _, columns = spec_of(engine, f"{opening.spec.name}x", cells=10)
        sessions.append(engine._opened(opening.session, None, columns))
    return [o for o in waiting if not o.done]


def test_an_evaluation_under_way_does_not_keep_a_session_that_is_to_leave(make_engine):
    engine = make_engine(
        model=MODEL, start=False, cells=2400, watermark=800, limits=StepLimits(tokens=32)
    )
    engine.tokens.eos_ids = frozenset()
    other = engine.open("other", cells=600)
    other.push("hello")
    run_until_idle(engine)
    size = engine.admission.room() - 200
    one, two = (engine.open(name, cells=size, evictable=True) for name in ("one", "two"))
    one.push("row one")
    run_until_idle(engine)
    one.flash("tell me?", max_tokens=200)
    while not one.ingest.begun():
        engine.step()
    two.push("row")
    asked = two.ask_start("which?", max_tokens=2)
    endless = other.ask_start("tell me?", max_tokens=480, fresh=False)
    steps = 0
    while not asked.done and steps < 400:
        engine.step()
        steps += 1
    assert asked.done and two.resident and not endless.done
    run_until_idle(engine)
    check_books(engine)


@pytest.mark.parametrize("wait", [False, True])
def test_an_opening_that_is_interrupted_leaves_nothing_behind(still, monkeypatch, wait):
    room = still.admission.room()
    call = still.call

    def interrupted(function):
        call(function)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(still, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            still.open("s", cells=300, wait=wait)
    run_until_idle(still)
    assert still.admission.room() == room and not still.sessions
    assert still.open("s", cells=300).cells_used == 0
    check_books(still)


def test_a_coroutine_that_does_not_wait_gets_cells_that_are_there(make_engine):
    engine = make_engine(cells=1200, watermark=200)
    assert asyncio.run(engine.open_async("s", cells=300, wait=0)).name == "s"
    with pytest.raises(TimeoutError, match="waited 0 s for 900 cells"):
        asyncio.run(engine.open_async("t", cells=900, wait=0))
