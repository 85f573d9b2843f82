"""Prompts without a session: the same answers, the same batch, and equal prefixes computed once."""

import pytest

from workbench.errors import CellsExhausted, EngineClosed, QuestionError
from workbench.events import Answered, Planned
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, check_books, run_until_idle

LONG = "A long prompt that many requests begin with, word for word. " * 3


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, cells=4096, watermark=1500, limits=StepLimits(tokens=64))


def test_an_answer_equals_plain_transformers(still):
    open_one = still.generate_start(LONG + "What?", max_tokens=6)
    closed = still.generate_start(LONG + "Which?", choices=["up", "down", "sideways"])
    run_until_idle(still)
    for answer in (open_one, closed):
        assert answer.input_ids == still.tokens.prompt(answer.question)
        assert_recomputes(still.decoder.model, answer, 5e-5)
    assert sum(closed.probabilities.values()) == pytest.approx(1)


def test_it_shares_steps_with_a_session(still):
    planned = []
    still.events.subscribe(lambda e: planned.append(e) if isinstance(e, Planned) else None)
    session = still.open("s", cells=300)
    session.push("some data")
    run_until_idle(still)
    asked = session.ask_start("what?", max_tokens=30)
    still.step()
    still.generate_start(LONG, max_tokens=2)
    session.push("more data")
    still.step()
    assert planned[-1].decode and planned[-1].question and planned[-1].ingest
    run_until_idle(still)
    assert_recomputes(still.decoder.model, asked, 5e-5)


def test_prompts_that_begin_alike_are_computed_once(still):
    answers = [still.generate_start(f"{LONG}{i}?", max_tokens=3) for i in range(5)]
    run_until_idle(still)
    common = len(still.tokens.prompt(LONG + "0?")) - 3
    assert answers[0].shared_tokens == 0
    assert all(answer.shared_tokens == common for answer in answers[1:])
    for answer in answers:
        assert_recomputes(still.decoder.model, answer, 5e-5)
    again = still.generate_start(f"{LONG}0?", max_tokens=3)
    run_until_idle(still)
    assert again.shared_tokens == len(again.input_ids) - 1
    assert again.token_ids == answers[0].token_ids


def test_a_sessions_prompt_is_shared_too(still):
    head = still.tokens.head(None)
    session = still.open("s", cells=400)
    session.push(LONG)
    run_until_idle(still)
    answer = still.generate_start(LONG, max_tokens=3)
    run_until_idle(still)
    assert answer.shared_tokens >= len(head) + len(LONG) - 1
    assert_recomputes(still.decoder.model, answer, 5e-5)
    session.close()
    check_books(still)


def test_kept_prompts_give_way_to_whoever_needs_cells(still):
    for i in range(8):
        still.generate_start(f"{i} {LONG * 2}", max_tokens=3)
        run_until_idle(still)
    assert still.core.parked
    room = still.admission.room()
    session = still.open("s", cells=room)
    assert still.pool.num_cells - still.pool.num_free >= room
    session.push("x" * (room - session.position - 1))
    run_until_idle(still)
    assert session.position == room
    answer = session.ask_start("what?", max_tokens=3)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, 5e-5)


def test_what_cannot_be_asked_is_refused_with_the_numbers(still):
    answer = still.generate_start("x" * 1600)
    run_until_idle(still)
    with pytest.raises(CellsExhausted, match="questions have 1,500"):
        answer.result()
    with pytest.raises(QuestionError, match="expected the prompt as text, got list"):
        still.generate_start(["x"])
    with pytest.raises(QuestionError, match="empty"):
        still.generate_start("  ")


def test_cancelling_and_closing_leave_nothing_behind(still):
    first = still.generate_start(LONG + "a", max_tokens=30)
    waiting = still.generate_start(LONG + "b", max_tokens=3)
    still.step()
    first.cancel()
    run_until_idle(still)
    assert first.finish_reason == "cancelled" and waiting.finish_reason in ("stop", "length")
    assert_recomputes(still.decoder.model, waiting, 5e-5)
    late = still.generate_start(LONG + "c", max_tokens=30)
    follower = still.generate_start(LONG + "d", max_tokens=30)
    still.step()
    still.close()
    for answer in (late, follower):
        with pytest.raises(EngineClosed):
            answer.result()


def test_who_leaves_the_line_lets_the_others_share(still):
    answers = [still.generate_start(f"{LONG}{i}?", max_tokens=3) for i in range(4)]
    still.step()
    answers[1].cancel()
    run_until_idle(still)
    common = len(still.tokens.prompt(LONG + "0?")) - 3
    assert [answer.shared_tokens for answer in answers] == [0, 0, common, common]
    assert still.questions._prompts == {}


def test_from_another_thread_and_as_a_coroutine(engine):
    import asyncio

    answer = engine.generate("what is this?", max_tokens=3, timeout=60)
    again = asyncio.run(engine.generate_async("what is this?", max_tokens=3, timeout=60))
    assert answer.token_ids == again.token_ids and answer.session_name == ""
    assert_recomputes(engine.decoder.model, answer, 5e-5)


# A session's context without the session.


def test_a_stateless_ask_computes_everything_anew_and_answers_the_same(make_engine):
    engine = make_engine(start=False, cells=2048, watermark=512, limits=StepLimits(tokens=64))
    session = engine.open("s", prompt="You watch.", cells=600)
    session.push([f"row {i}" for i in range(20)])
    run_until_idle(engine)
    kept = session.ask_start("so?", max_tokens=4)
    run_until_idle(engine)
    events = []
    engine.events.subscribe(events.append)
    for _ in range(2):  # the second finds nothing of the first
        answer = session.ask_stateless_start("so?", max_tokens=4)
        run_until_idle(engine)
        assert answer.result().token_ids == kept.token_ids
        assert answer.stateless and answer.context == session.position == kept.context
        assert answer.input_ids == kept.input_ids and answer.shared_tokens == 0
        assert (answer.version, answer.row, answer.position) == (1, 20, session.position)
        assert_recomputes(engine.decoder.model, answer, 5e-5)
    computed = sum(e.question for e in events if isinstance(e, Planned))
    assert computed == 2 * len(kept.input_ids)
    first, _ = [e for e in events if isinstance(e, Answered)]
    assert (first.stateless, first.context, first.session) == (True, session.position, "s")
    assert engine.pool.num_free == 2048 - 600 and "stateless" in repr(answer)


def test_a_stateless_ask_that_does_not_fit_says_so(make_engine):
    engine = make_engine(cells=1024, watermark=128)
    session = engine.open("s", cells=600)
    session.push("x" * 200).wait()
    with pytest.raises(CellsExhausted, match="questions have 128"):
        session.ask_stateless("so?")
    choice = engine.open("t", cells=64)
    choice.push("up").wait()
    assert choice.ask_stateless("so?", choices=["up", "down"], timeout=30).choice in ("up", "down")
