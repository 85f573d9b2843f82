"""An answer is guessed to come again: whatever the guess, it is the model's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.answer import Answer
from workbench.engine.guesses import (
    FIRST_GUESS,
    MOST_GUESSED,
    QUESTIONS_KEPT,
    Guesses,
    Told,
)
from workbench.engine.sampler import Sampling
from workbench.engine.work import Question
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
    session.ingest.guesses._told[tuple(ids)] = Told((*guess, 0), MOST_GUESSED)
    question = Question(engine.core.next_id(), Kind.FLASH, session.ingest, answer, ids,
                        Sampling(TOKENS))  # fmt: skip
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


def told(guesses, length, right):
    """The question is answered by ``length`` tokens that begin with so many of the guessed ones."""
    guess = guesses.of([1, 2])
    new = max(guess, default=99) + 1
    answer = [*guess[:right], *range(new, new + length)][:length]
    guesses.learn([1, 2], guess, answer)
    return guesses.of([1, 2])


def test_guesses_go_as_far_as_they_come_true():
    guesses = Guesses()
    assert guesses.of([1, 2]) == ()
    assert told(guesses, 40, 0) == tuple(range(100, 100 + FIRST_GUESS))
    assert len(told(guesses, 40, 99)) == 2 * FIRST_GUESS
    assert len(told(guesses, 40, 99)) == MOST_GUESSED
    assert len(told(guesses, 40, 99)) == MOST_GUESSED
    assert len(told(guesses, 40, 5)) == 6
    assert len(told(guesses, 40, 0)) == 1
    assert len(told(guesses, 40, 1)) == 2


def test_the_last_token_is_not_guessed():
    guesses = Guesses()
    assert len(told(guesses, 3, 0)) == 2
    assert told(guesses, 1, 0) == ()
    assert told(guesses, 0, 0) == ()


def test_the_questions_asked_last_are_kept():
    guesses = Guesses()
    for number in range(QUESTIONS_KEPT + 1):
        guesses.learn([number], (), [5, 6, 7])
    assert guesses.of([0]) == () and guesses.of([1]) == (5, 6)
    guesses.learn([1], (5, 6), [5, 6, 7])
    guesses.learn([99], (), [5, 6, 7])
    assert guesses.of([1]) and guesses.of([2]) == ()


@pytest.mark.parametrize("options", [{"choices": ["up", "down"]}, {"temperature": 0.5, "seed": 1}])
def test_closed_and_sampled_answers_are_not_guessed(asked, options):
    engine, session, _ = asked
    for _ in range(2):
        answer = session.ask_start("which?", max_tokens=4, **options)
        run_until_idle(engine)
        assert answer.done and answer.drafted == 0
    assert session.ingest.guesses.of(engine.tokens.question("which?")) == ()


def test_asking_again_takes_one_step(asked):
    engine, session, want = asked
    for _ in range(4):  # four more tokens are trusted each time
        again = session.ask_start("what?", max_tokens=TOKENS)
        before = engine.num_steps
        run_until_idle(engine)
        assert again.token_ids == want.token_ids
    assert engine.num_steps - before == 1
