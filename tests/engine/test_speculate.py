"""Guesses from the context, beside a plain search, and answers that do not change with them."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.engine.speculate import MAX_NGRAM, MIN_NGRAM, propose, worthwhile
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, run_until_idle


def plainly(context: list[int], own: list[int], num: int) -> list[int]:
    text = context + own
    for size in range(min(MAX_NGRAM, len(own)), MIN_NGRAM - 1, -1):
        for at in range(len(text) - size - 1, -1, -1):
            if text[at : at + size] == own[-size:]:
                return text[at + size : at + size + num]
    return []


TOKENS = st.integers(0, 3) | st.sampled_from([256, 65_536, 2**24])


@given(st.lists(TOKENS, max_size=40), st.lists(TOKENS, min_size=1, max_size=8), st.integers(1, 4))
def test_guesses_equal_a_plain_search(context, own, num):
    assert list(propose(array("i", context).tobytes(), own, num)) == plainly(context, own, num)


def test_what_followed_last_time_is_guessed():
    context = array("i", [1, 2, 3, 7, 8, 1, 2, 3, 9, 9]).tobytes()
    assert list(propose(context, [5, 1, 2, 3], 2)) == [9, 9]
    assert list(propose(context, [5, 6], 2)) == []


def test_answers_that_are_guessed_wrong_stop_being_guessed():
    assert worthwhile(0, 0) and worthwhile(11, 0)
    assert not worthwhile(12, 2) and worthwhile(12, 3)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_drafts_change_no_answer(make_engine, family):
    """Random models fall into loops, which are guessed right; the text stays what it was."""
    answers, took = {}, {}
    for questions in (0, 2):
        engine = make_engine(family, start=False, limits=StepLimits(draft_questions=questions))
        session = engine.open("s", prompt="abc abc abc", cells=400)
        session.push("abcabcabcabc abc abc " * 4)
        run_until_idle(engine)
        steps = engine.num_steps
        answers[questions] = session.ask_start("abc abc?", max_tokens=60)
        run_until_idle(engine)
        took[questions] = engine.num_steps - steps
        assert_recomputes(engine.decoder.model, answers[questions], 5e-5)
        assert engine.stats().drafted_tokens == answers[questions].drafted
    plain, guessed = answers[0], answers[2]
    assert plain.token_ids == guessed.token_ids and plain.drafted == 0
    assert guessed.logprobs == pytest.approx(plain.logprobs, abs=5e-5)
    assert 0 < guessed.accepted <= guessed.drafted
    assert took[2] == took[0] - guessed.accepted


def test_sampled_answers_are_not_guessed(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400)
    session.push("abcabcabcabc abc abc " * 4)
    answer = session.ask_start("abc abc?", max_tokens=40, temperature=0.7, seed=1)
    run_until_idle(engine)
    assert answer.drafted == 0 and len(answer.token_ids) > 1


def test_an_answer_cut_by_its_length_takes_no_token_too_many(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400)
    session.push("abcabcabcabc abc abc " * 4)
    for num in range(1, 12):
        answer = session.ask_start("abc abc?", max_tokens=num)
        run_until_idle(engine)
        assert len(answer.token_ids) <= num
        assert_recomputes(engine.decoder.model, answer, 5e-5)
