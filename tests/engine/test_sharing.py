"""Equal beginnings are computed once and held once, and nobody's answer changes with it."""

import pytest

from workbench.engine.ingestion import MOST_PIECES
from workbench.errors import CellsExhausted
from workbench.events import Shared
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, check_books, poison_free_cells, run_until_idle

PROMPT = "You watch the tape. " * 6
ROWS = [f"row {i} {i * i % 17}" for i in range(12)]


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, cells=8192, limits=StepLimits(tokens=64))


def computed(engine) -> int:
    return engine.stats().ingested_tokens + engine.stats().background_tokens


def test_sessions_with_one_prompt_hold_it_once(still):
    first = still.open("s0", prompt=PROMPT, cells=300)
    run_until_idle(still)
    before, free = computed(still), still.pool.num_free
    rest = [still.open(f"s{i}", prompt=PROMPT, cells=300) for i in range(1, 8)]
    run_until_idle(still)
    head = first.position
    assert computed(still) == before == head
    assert free - still.pool.num_free == 7 * (300 - head)
    assert still.stats().shared_tokens == 7 * head
    for session in [first, *rest]:
        answer = session.ask_start("what?", max_tokens=3)
        run_until_idle(still)
        assert_recomputes(still.decoder.model, answer, 5e-5)


def test_sessions_opened_at_once_compute_their_prompt_once(still):
    sessions = [still.open(f"s{i}", prompt=PROMPT, cells=300) for i in range(8)]
    run_until_idle(still)
    assert computed(still) == sessions[0].position
    assert still.stats().shared_tokens == 7 * sessions[0].position


def test_a_feed_fanned_out_is_computed_once(still):
    sessions = [still.open(f"s{i}", prompt=PROMPT, cells=600) for i in range(6)]
    shared = []
    still.events.subscribe(lambda e: shared.append(e) if isinstance(e, Shared) else None)
    for number, row in enumerate(ROWS):
        ticks = [session.push(row) for session in sessions]
        for _ in range(number % 3):
            still.step()
    run_until_idle(still)
    assert all(tick.done for tick in ticks)
    assert {session.version for session in sessions} == {len(ROWS)}
    position = sessions[0].position
    assert computed(still) == position
    assert still.stats().shared_tokens == 5 * position == sum(e.tokens for e in shared)
    # One copy of what all have in common, and of what each has reserved for later.
    assert still.pool.num_cells - still.pool.num_free == position + 6 * (600 - position)
    assert {session.token_ids == sessions[0].token_ids for session in sessions} == {True}


def test_histories_that_part_share_up_to_there_and_no_further(still):
    a, b = still.open("a", prompt=PROMPT, cells=600), still.open("b", prompt=PROMPT, cells=600)
    for session, words in ((a, "yes"), (b, "yen")):
        session.push("the same for both")
        session.push(words)
        session.push("the same again")
    run_until_idle(still)
    same = next(i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=True)) if x != y)
    assert still.stats().shared_tokens == same
    assert computed(still) == 2 * a.position - same
    for session in (a, b):
        answer = session.ask_start("what?", choices=["up", "down"])
        run_until_idle(still)
        assert_recomputes(still.decoder.model, answer, 5e-5)


def test_a_session_behind_catches_up_without_computing(still):
    ahead, late = still.open("ahead", cells=600), still.open("late", cells=600)
    for row in ROWS:
        ahead.push(row)
    run_until_idle(still)
    before = computed(still)
    late.push(ROWS[0])
    late.push("".join(f"{row}\n" for row in ROWS[1:7]))  # the same text in other ticks
    run_until_idle(still)
    assert computed(still) == before
    assert late.token_ids == ahead.token_ids[: late.position]
    late.push("something else")
    run_until_idle(still)
    assert computed(still) > before


@pytest.mark.parametrize("order", ["first", "last", "middle"])
def test_whoever_closes_leaves_the_cells_to_the_others(still, order):
    sessions = [still.open(f"s{i}", prompt=PROMPT, cells=500) for i in range(5)]
    for session in sessions:
        for row in ROWS[:6]:
            session.push(row)
    run_until_idle(still)
    closing = {"first": sessions, "last": sessions[::-1], "middle": sessions[2:] + sessions[:2]}
    for session in closing[order]:
        session.close()
        poison_free_cells(still)
        check_books(still)
        for left in still.sessions.values():
            answer = left.ask_start("what?", max_tokens=2)
            run_until_idle(still)
            assert_recomputes(still.decoder.model, answer, 5e-5)
    assert still.pool.num_free == still.pool.num_cells
    assert len(still.core.prefixes) == 0


def test_cells_saved_by_sharing_open_further_sessions(make_engine):
    engine = make_engine(start=False, cells=1200, watermark=200)
    engine.open("first", prompt=PROMPT * 3, cells=500)
    run_until_idle(engine)
    # Of 1,000 cells for sessions the first holds 500; each further one needs those it shares less.
    further = 500 // (500 - engine.session("first").position)
    assert further > 1
    for i in range(further):
        engine.open(f"s{i}", prompt=PROMPT * 3, cells=500)
    with pytest.raises(CellsExhausted, match="can still be promised"):
        engine.open("one_too_many", prompt=PROMPT * 3, cells=500)
    for session in engine.sessions.values():
        session.push("x" * (499 - session.position))
    run_until_idle(engine)
    assert {s.position for s in engine.sessions.values()} == {500}


def test_an_ingest_fault_of_the_leader_leaves_its_followers_going(still, monkeypatch):
    leader, follower = still.open("a", cells=300), still.open("b", cells=300)
    run_until_idle(still)
    for session in (leader, follower):
        session.push("shared row")
    forward, bad = still._forward, leader.ingest.line.sequence

    def failing(parts):
        if any(part.sequence is bad for part in parts):
            msg = "kernel fault"
            raise RuntimeError(msg)
        return forward(parts)

    with monkeypatch.context() as patch:
        patch.setattr(still, "_forward", failing)
        run_until_idle(still)
    assert leader.error is not None and follower.version == 1
    leader.retry()
    run_until_idle(still)
    assert leader.version == 1 and leader.token_ids == follower.token_ids


def test_lines_that_take_turns_in_being_first_stay_in_few_pieces(still):
    one, two = (still.open(f"s{i}", prompt=PROMPT, cells=2000) for i in range(2))
    run_until_idle(still)
    before = computed(still)
    for number in range(90):
        row = f"row {number} {number * number % 17}"
        for session in (one, two) if number % 2 else (two, one):
            session.push(row)
            run_until_idle(still)
    assert one.position == two.position and computed(still) == one.position
    assert before < one.position  # every row was computed by one of them alone
    assert all(len(s.ingest.sequence.runs(s.position)) <= MOST_PIECES + 2 for s in (one, two))
    check_books(still)
    poison_free_cells(still)
    for session in (one, two):
        answer = session.ask_start("what?", max_tokens=3)
        run_until_idle(still)
        assert_recomputes(still.decoder.model, answer, 5e-5)
    one.close()
    poison_free_cells(still)
    answer = two.ask_start("what?", max_tokens=3)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, 5e-5)
