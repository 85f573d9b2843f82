"""A standing answer is guessed to come again: whatever the guess, the answer is the model's."""

import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.answer import Answer
from workbench.engine.sampler import Sampling
from workbench.engine.work import Question
from workbench.flash.query import FIRST_GUESS, MOST_GUESSED, FlashQuery
from workbench.scheduler.filling import Kind
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)

TOKENS = 6
MODEL = tiny_model("llama")


@pytest.fixture(scope="module")
def asked():
    """An engine, a session, and what it answers."""
    limits = StepLimits(tokens=32)
    with wb.Engine(MODEL, cells=512, start=False, limits=limits) as engine:
        session = engine.open("s", cells=200)
        session.push("some rows")
        answer = session.ask_start("what?", max_tokens=TOKENS)
        run_until_idle(engine)
        assert len(answer.token_ids) == TOKENS
        yield engine, session, answer


def evaluate(engine, session, guess):
    """The same question as a flash evaluation with a guess; its answer and how many steps it took.

    Nothing may be read that a wrong guess has left behind.
    """
    answer = Answer("what?", "s")
    ids = engine.tokens.question("what?")
    answer.asks_with(ids, lambda: None)
    question = Question(engine.core.next_id(), Kind.FLASH, session.ingest, answer, ids,
                        Sampling(TOKENS), guess=guess)  # fmt: skip
    poison_free_cells(engine)
    before = engine.num_steps
    engine.questions.add(question)
    run_until_idle(engine)
    check_books(engine)
    return answer, engine.num_steps - before


@settings(deadline=None, max_examples=40)
@given(right=st.integers(0, TOKENS - 1), wrong=st.lists(st.integers(0, 255), max_size=TOKENS - 1))
def test_any_guess_gives_the_models_answer(asked, right, wrong):
    engine, session, want = asked
    guess = [*want.token_ids[:right], *wrong][: TOKENS - 1]
    answer, steps = evaluate(engine, session, guess)
    assert answer.token_ids == want.token_ids
    assert answer.logprobs == pytest.approx(want.logprobs, abs=1e-4)
    pairs = zip(guess, want.token_ids, strict=False)
    true = next((n for n, (a, b) in enumerate(pairs) if a != b), len(guess))
    assert (answer.drafted, answer.accepted) == (len(guess), true)
    assert steps == TOKENS - true


def test_an_answer_that_comes_again_takes_one_step(asked):
    engine, session, want = asked
    answer, steps = evaluate(engine, session, want.token_ids[:-1])
    assert steps == 1 and answer.text == want.text
    assert_recomputes(MODEL[0], answer, 1e-4)


def test_guessing_changes_no_answer_of_a_query():
    texts = []
    for drafts in (0, 2):
        limits = StepLimits(tokens=32, draft_questions=drafts)
        with wb.Engine(MODEL, cells=512, start=False, limits=limits) as engine:
            session = engine.open("s", cells=200)
            query = session.flash("what?", max_tokens=TOKENS)
            for number in range(6):
                session.push("xy"[number % 2 :])
                run_until_idle(engine)
            for answer in query.answers:
                assert_recomputes(MODEL[0], answer, 1e-4)
            texts.append([answer.token_ids for answer in query.answers])
            assert any(answer.drafted for answer in query.answers) == bool(drafts)
    assert texts[0] == texts[1]


def query_of(choices=()):
    session, sampling = types.SimpleNamespace(), Sampling(40)
    return FlashQuery("q", session, None, "q?", [1], choices, [], sampling, None)


def recorded(query, length, accepted):
    """An answer of ``length`` tokens of which so many of the guessed ones were right."""
    answer = Answer("q?", "s")
    answer.token_ids = list(range(length))
    answer.drafted, answer.accepted = len(query.guess), min(accepted, len(query.guess))
    query.record(answer)
    return query.guess


def test_a_query_guesses_as_far_as_its_guesses_come_true():
    query = query_of()
    assert query.guess == []
    assert recorded(query, 40, 0) == list(range(FIRST_GUESS))
    assert len(recorded(query, 40, 99)) == 2 * FIRST_GUESS
    assert len(recorded(query, 40, 99)) == MOST_GUESSED
    assert len(recorded(query, 40, 99)) == MOST_GUESSED
    assert len(recorded(query, 40, 5)) == 6
    assert len(recorded(query, 40, 0)) == 1
    assert len(recorded(query, 40, 1)) == 2


def test_the_last_token_and_closed_answers_are_not_guessed():
    query = query_of()
    assert recorded(query, 3, 0) == [0, 1]
    assert recorded(query, 1, 2) == []
    assert recorded(query_of(("up", "down")), 5, 0) == []
