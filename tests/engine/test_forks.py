"""A fork goes on from a moment of another session, computes nothing again, and goes its own way."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import workbench as wb
from tests.engine.test_moments import context, text
from workbench.engine.origin import Origin
from workbench.errors import (
    CellsExhausted,
    QuestionError,
    SessionExists,
    TickDropped,
    WorkbenchError,
)
from workbench.events import Committed
from workbench.opening import fork_of
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    FAMILIES,
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
)

BOUND = 5e-5


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, limits=StepLimits(tokens=24))


def computed(engine) -> int:
    return engine.stats().ingested_tokens + engine.stats().background_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fork_shares_what_was_and_answers_over_what_is_its_own(make_engine, family):
    engine = make_engine(family, start=False, cells=4096, limits=StepLimits(tokens=24))
    parent = engine.open("s", prompt="You watch.", cells=500)
    parent.push([text(i) for i in range(12)])
    run_until_idle(engine)
    before, free = computed(engine), engine.pool.num_free
    forks = {n: parent.fork(f"at{n}", at=n) for n in (3, 11)} | {12: parent.fork("now")}
    run_until_idle(engine)
    assert computed(engine) == before  # nothing again, wherever in the tick it begins
    assert free - engine.pool.num_free == sum(500 - fork.position for fork in forks.values())
    for n, fork in forks.items():
        assert (fork.rows, fork.version, fork.prompt) == (n, 1, "You watch.")
        assert fork.token_ids == parent.token_ids[: fork.position]
        fork.push([f"only {n}", "and more"])
    parent.push("only here")
    answers = {n: fork.ask_start("so?", max_tokens=4) for n, fork in forks.items()}
    earlier = {n: fork.ask_start("so?", max_tokens=2, at=n - 1) for n, fork in forks.items()}
    own = parent.ask_start("so?", choices=["up", "down"])
    while engine.step():
        check_books(engine)
    poison_free_cells(engine)
    for n, answer in answers.items():
        assert (answer.row, answer.version) == (n + 2, 2)
        assert context(engine, answer)[-2:] == [f"only {n}", "and more"]
        assert len(context(engine, earlier[n])) == n  # the prompt's line, and the rows until then
        assert context(engine, earlier[n])[-1] == text(n - 2)
    assert context(engine, own)[-1] == "only here"
    for answer in (*answers.values(), *earlier.values(), own):
        assert_recomputes(engine.decoder.model, answer, BOUND)


def test_a_fork_outlives_its_parent_and_may_be_forked(still):
    parent = still.open("s", cells=300)
    parent.push(["one", "two", "three"])
    run_until_idle(still)
    child = parent.fork("child", at=wb.row(-1))
    parent.close()
    child.push("four")
    run_until_idle(still)
    grandchild = child.fork("grandchild", at=wb.version(1), cells=120)
    child.close()
    poison_free_cells(still)
    answer = grandchild.ask_start("so?", max_tokens=3)
    run_until_idle(still)
    assert context(still, answer) == ["one", "two"] and grandchild.budget == 120
    assert_recomputes(still.decoder.model, answer, BOUND)
    check_books(still)


def test_a_fork_of_a_rebuilt_window_has_its_rows_and_goes_on_moving(make_engine):
    engine = make_engine(start=False, cells=2048, limits=StepLimits(tokens=24))
    parent = engine.open("s", prompt="You watch.", cells=240, overflow="rebuild", window=60)
    for number in range(60):
        parent.push(text(number))
        run_until_idle(engine)
    gone = parent.ingest.first_row
    assert gone > 20
    with pytest.raises(QuestionError, match="have left the window"):
        parent.fork("early", at=2)
    forks = [parent.fork("now"), parent.fork("before", at=wb.row(-4))]
    assert [fork.rows for fork in forks] == [60, 56]
    for fork, number in ((forks[0], 60), (forks[1], 56)):
        assert fork.overflow == "rebuild" and fork.ingest.window.keep == 60
        assert (fork.window_rows, fork.ingest.first_row) == (number - gone, gone)
        for more in range(number, number + 60):
            fork.push(text(more))
            run_until_idle(engine)
            if more % 9 == 0:
                answer = fork.ask_start("so?", max_tokens=3)
                late = fork.ask_start("so?", max_tokens=2, at=wb.row(-2))
                run_until_idle(engine)
                rows = context(engine, answer)[1:]
                assert rows == [text(i) for i in range(answer.row - len(rows), answer.row)]
                assert answer.row == more + 1 and late.row == more - 1
                assert_recomputes(engine.decoder.model, answer, BOUND)
                assert_recomputes(engine.decoder.model, late, BOUND)
        assert fork.ingest.first_row > number - 20
    check_books(engine)


def test_a_fork_of_a_window_keeps_its_rows_until_it_has_to_move(make_engine):
    engine = make_engine(start=False, cells=4096, limits=StepLimits(tokens=64))
    parent = engine.open("s", cells=1600, overflow="rebuild", window=200)
    number = 0
    while not parent.ingest.first_row or parent.position < 600:
        parent.push(text(number))
        run_until_idle(engine)
        number += 1
    fork = parent.fork("fork")
    assert fork.ingest.window.slack == parent.ingest.window.slack
    run_until_idle(engine)
    assert fork.window_rows == parent.window_rows and fork.token_ids == parent.token_ids


def test_forked_as_soon_as_rows_are_visible_it_has_all_of_them(still):
    parent = still.open("s", cells=400)
    origins = []
    still.events.subscribe(
        lambda e: origins.append(Origin.of(parent.ingest, None)) if isinstance(e, Committed) else 0
    )
    parent.push("one")
    parent.push(["two", "three"])
    run_until_idle(still)  # both in one step
    assert [origin.now.rows for origin in origins] == [3, 3]
    assert [origin.history.rows for origin in origins] == [3, 3]


def test_rows_that_a_full_queue_dropped_are_not_waited_for(still, tmp_path, monkeypatch):
    parent = still.open("s", cells=400, on_full="drop_oldest", max_pending=1)
    tick = parent.push("one")

    def dropped():
        raise TickDropped("1 rows were dropped")

    monkeypatch.setattr(tick, "wait", dropped)
    assert parent.fork("fork").rows == 0
    assert parent.save(tmp_path / "file").exists()


def test_a_window_whose_keys_remember_what_left_cannot_be_forked(make_engine):
    engine = make_engine(start=False, cells=1024, limits=StepLimits(tokens=24))
    parent = engine.open("s", cells=120, overflow="evict")
    parent.push("one")
    run_until_idle(engine)
    fork = parent.fork("while nothing has left".replace(" ", "-"))
    for number in range(40):
        for session in (parent, fork):
            session.push(text(number))
        run_until_idle(engine)
    assert parent.token_ids == fork.token_ids and fork.ingest.first_row
    with pytest.raises(WorkbenchError, match="keys that remember them"):
        parent.fork("late")
    assert set(engine.sessions) == {"s", fork.name}


def test_a_fork_of_an_evicted_session_is_computed(make_engine):
    engine = make_engine(start=False, cells=512, watermark=128)
    first = engine.open("first", cells=300, evictable=True)
    first.push([text(i) for i in range(10)])
    run_until_idle(engine)
    second = engine.open("second", cells=300, evictable=True)
    second.push("one")
    run_until_idle(engine)
    assert not first.resident
    fork = first.fork("fork", at=8)
    assert fork.evictable
    answer = fork.ask_start("so?", max_tokens=2)
    run_until_idle(engine)
    assert context(engine, answer) == [text(i) for i in range(8)]
    assert_recomputes(engine.decoder.model, answer, BOUND)


def test_a_fork_has_what_was_pushed_before_and_keeps_the_columns(engine):
    parent = engine.open("s", cells=400)
    parent.push([{"a": 1, "b": 2}] * 20)
    fork = parent.fork("fork")
    assert fork.rows == 20
    with pytest.raises(WorkbenchError, match="expected columns a, b"):
        fork.push({"a": 1})
    fork.push({"b": 1, "a": 3}).wait()
    assert engine.tokens.text(fork.token_ids).endswith("a=3 b=1\n")
    assert engine.session("fork") is fork and parent.rows == 20


def test_what_cannot_be_forked_is_one_clear_error_and_opens_nothing(still):
    parent = still.open("s", cells=400)
    parent.push(["some words"] * 12)
    run_until_idle(still)
    num = parent.position
    for error, words, options in (
        (SessionExists, "'s' is open", {"name": "s"}),
        (WorkbenchError, "without spaces", {"name": "a b"}),
        (WorkbenchError, "cells='many': expected a whole number", {"cells": "many"}),
        (CellsExhausted, f"since it begins with {num},", {"cells": num - 1}),
        (CellsExhausted, "can still be promised", {"cells": 4000}),
        (WorkbenchError, "wait=-1", {"wait": -1}),
        (QuestionError, "goes from row 0 to 12", {"at": 13}),
        (QuestionError, "whole number", {"at": "2"}),
    ):
        with pytest.raises(error, match=words):
            parent.fork(**{"name": "fork", **options})
    assert set(still.sessions) == {"s"} == {s.name for s in still.core.sessions.values()}
    full = parent.fork("full", cells=num)  # which takes no more rows, but questions
    answer = full.ask_start("so?", max_tokens=2)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, BOUND)
    with pytest.raises(CellsExhausted, match="0 of its"):
        full.push("more")
    parent.close()
    with pytest.raises(WorkbenchError, match="is closed"):
        parent.fork("late")
    check_books(still)


def test_a_fork_may_wait_in_line_for_its_cells(make_engine):
    engine = make_engine(cells=1024, watermark=128)
    parent = engine.open("s", cells=400)
    parent.push(["one", "two"]).wait()
    other = engine.open("other", cells=420)
    with pytest.raises(TimeoutError, match="waited 0.05 s for 400 cells"):
        parent.fork("fork", wait=0.05)
    with ThreadPoolExecutor(1) as aside:
        waiting = aside.submit(parent.fork, "fork", wait=True)
        while not engine.call(lambda: engine.admission.openings):
            pass
        parent.push("three").wait()
        other.close()
        fork = waiting.result()
    assert fork.rows == 2 and fork.ask("so?", max_tokens=1).row == 2  # as it was when it was asked


def test_a_tick_that_is_half_in_is_not_in_a_fork(still):
    parent = still.open("s", cells=400)
    parent.push("one")
    run_until_idle(still)
    tick = parent.push("a row of more tokens than a step has")
    still.step()
    assert not tick.done and parent.cells_used > parent.position
    origin = Origin.of(parent.ingest, None)
    fork = still.admit(*fork_of(still, parent, "fork", origin, None), None, wait=False)
    fork.push("two")
    run_until_idle(still)
    assert still.tokens.text(fork.token_ids).splitlines() == ["one", "two"]
    assert parent.rows == fork.rows == fork.version == 2
    answer = fork.ask_start("so?", max_tokens=3)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, BOUND)


def test_an_origin_is_a_copy(still):
    parent = still.open("s", cells=400)
    parent.push(["one", "two"])
    run_until_idle(still)
    origin = Origin.of(parent.ingest, None)
    ids, ends = list(origin.token_ids), origin.history.row(2)
    parent.push("three")
    run_until_idle(still)
    assert origin.token_ids == ids and origin.history.row(2) == ends
    assert origin.history.rows == 2 and origin.now.rows == 2
