"""Whoever is told of something may close, open, push or retry there and then: the rest goes on."""

import threading

import pytest

from workbench.errors import SessionFaulted, WorkbenchError
from workbench.events import (
    Answered,
    Behind,
    Committed,
    Evicted,
    Faulted,
    Rebuilt,
    Returned,
    RowsDropped,
    RowsLeft,
    Shared,
)
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, check_books, poison_free_cells, run_until_idle

ROWS = [f"row {i} {i * i % 17}" for i in range(12)]


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, cells=2048, limits=StepLimits(tokens=48))


def on(engine, kind, name, act):
    """Do something once, in the engine's thread, when a session has this event."""
    told = []

    def note(event):
        if isinstance(event, kind) and event.session == name and not told:
            told.append(event)
            act()

    engine.events.subscribe(note)
    return told


def works(engine):
    """A new session takes rows and answers as plain transformers does."""
    assert not engine.closed
    poison_free_cells(engine)
    other = engine.open("works", cells=60)
    tick = other.push("so far")
    answer = other.ask_start("what?", max_tokens=2)
    run_until_idle(engine)
    assert tick.version == 1
    assert_recomputes(engine.decoder.model, answer, 1e-4)
    check_books(engine)


@pytest.mark.parametrize("kind", [Committed, Shared])
@pytest.mark.parametrize("closed", ["first", "second", "third"])
def test_a_session_is_closed_while_beginnings_are_shared(still, kind, closed):
    sessions = {name: still.open(name, cells=300) for name in ("first", "second", "third")}
    told = on(still, kind, "second", lambda: sessions[closed].close())
    for session in sessions.values():
        for text in ROWS:
            session.push(text)
    run_until_idle(still)
    assert told and [s.name for s in still.sessions.values()] == [
        name for name in sessions if name != closed
    ]
    assert {session.rows for session in still.sessions.values()} == {len(ROWS)}
    works(still)


@pytest.mark.parametrize(
    ("overflow", "kind"),
    [("rebuild", Rebuilt), ("rebuild", Behind), ("evict", RowsLeft), ("evict", Committed)],
)
def test_a_session_is_closed_while_its_window_moves(still, overflow, kind):
    window = {"window": 60} if overflow == "rebuild" else {}
    session = still.open("s", cells=200, overflow=overflow, max_pending=10_000, **window)
    told = on(still, kind, "s", session.close)
    for number in range(200):
        if session.closed:
            break
        session.push(f"{number}: some row")
        if kind is not Behind:
            still.step()
    run_until_idle(still)
    assert told and session.closed and still.pool.num_free == still.num_cells
    works(still)


@pytest.mark.parametrize("kind", [Returned, Evicted])
@pytest.mark.parametrize("closed", ["one", "two"])
def test_a_session_is_closed_while_sessions_take_turns(make_engine, kind, closed):
    engine = make_engine(start=False, cells=512, watermark=128, limits=StepLimits(tokens=48))
    sessions = {name: engine.open(name, cells=300, evictable=True) for name in ("one", "two")}
    told = on(engine, kind, "one", lambda: sessions[closed].close())
    for number in range(6):
        for session in sessions.values():
            if not session.closed:
                session.push(f"{session.name} {number}")
                run_until_idle(engine)
    assert told and sessions[closed].closed
    works(engine)


def test_a_session_that_is_evicted_inside_a_step_is_computed_again(make_engine):
    engine = make_engine(start=False, cells=1024, watermark=128, limits=StepLimits(tokens=48))
    idle = engine.open("idle", cells=300, evictable=True)
    idle.push([f"row {i}" for i in range(20)])
    run_until_idle(engine)
    busy = engine.open("busy", cells=300, evictable=True)
    busy.push("a row")
    run_until_idle(engine)
    big = engine.open("big", cells=500)
    run_until_idle(engine)
    assert not idle.resident and busy.resident
    big.close()
    engine.step()  # it comes back in idle time
    assert idle.resident and idle.ingest.line.pending
    busy.push("another")
    told = on(engine, Committed, "busy", lambda: engine.open("large", cells=500))
    engine.step()  # beside what the busy one reads
    assert told and not idle.resident and idle.ingest.line.computed == 0
    run_until_idle(engine)
    engine.session("large").close()
    answer = idle.ask_start("what?", max_tokens=3)
    run_until_idle(engine)
    assert_recomputes(engine.decoder.model, answer, 1e-4)
    works(engine)


def test_a_fault_is_mended_by_who_is_told_of_it(still, monkeypatch):
    session = still.open("s", cells=200)
    run_until_idle(still)
    forward, failed = still._forward, []

    def once(parts):
        if any(part.sequence is session.ingest.sequence for part in parts) and not failed:
            failed.append(parts)
            raise RuntimeError("kernel fault")
        return forward(parts)

    monkeypatch.setattr(still, "_forward", once)
    told = on(still, Faulted, "s", session.retry)
    session.push("precious")
    run_until_idle(still)
    assert failed and told and session.error is None and session.state == "open"
    assert session.rows == 1
    session.push("and more")
    run_until_idle(still)
    assert session.rows == 2


def test_who_is_told_pushes_while_a_stream_waits_for_room(make_engine):
    engine = make_engine(cells=4096)
    session = engine.open("s", cells=1800, max_pending=1)
    refused, asked = [], threading.Event()

    def push():
        try:
            session.push("a note")
        except WorkbenchError as error:
            refused.append(str(error))
        asked.set()

    on(engine, Answered, "s", push)
    feed = session.stream((f"row {i}" for i in range(60)), progress=False)
    session.ask("what?", max_tokens=2, timeout=60)
    assert asked.wait(60), "the engine's thread hangs"
    feed.wait(60)
    session.flush(60)
    # It went in, or was refused where only this thread could have made room.
    assert session.rows + len(refused) == 61
    assert all("engine's own thread" in text for text in refused)


def test_who_is_told_of_dropped_rows_pushes_as_well(still):
    session = still.open("s", cells=300, max_pending=1, on_full="drop_oldest")
    pushed = []
    on(still, RowsDropped, "s", lambda: pushed.append(session.push("a gap")))
    first = session.push("one")
    first.when_done(lambda: pushed.append(session.push("it is gone")))
    session.push("two")
    run_until_idle(still)
    assert len(pushed) == 2 and session.rows == 1 and first.error is not None
    with pytest.raises(WorkbenchError, match="were dropped"):
        first.wait(0)


def test_a_tick_of_a_faulted_session_can_be_pushed_again(still, monkeypatch):
    session = still.open("s", cells=200)
    run_until_idle(still)
    with monkeypatch.context() as patch:
        patch.setattr(still, "_forward", _broken)
        tick = session.push("precious")
        run_until_idle(still)
    with pytest.raises(SessionFaulted):
        tick.wait(0)
    assert tick.cancel() and session.pending_rows == 0  # nobody has read it
    session.retry()
    session.push("another")
    run_until_idle(still)
    assert session.rows == 1 and "another" in still.tokens.text(session.token_ids)


def _broken(parts):
    raise RuntimeError("kernel fault")
