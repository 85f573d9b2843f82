"""`Engine.audit` computes answers again with plain transformers."""

import dataclasses
import math

import pytest

import workbench as wb
from workbench import audit
from workbench.errors import QuestionError
from workbench.testing import FAMILIES, plain_logits, tiny_model

CHOICES = ["up", "down", "sideways"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_finds_what_plain_transformers_computes_over_the_whole_log(family, monkeypatch):
    monkeypatch.setattr(audit, "CHUNK", 7)  # beyond the window of the families that have one
    model = tiny_model(family)
    with wb.Engine(model, cells=512) as engine:
        session = engine.open("s", prompt="watch", cells=200)
        session.push(["one and two", "three and four"]).wait()
        answer = session.ask("what now?", max_tokens=5)
        found = engine.audit(answer)
        ids = [*answer.input_ids, *answer.token_ids]
        rows = engine.call(lambda: plain_logits(model[0], ids)).log_softmax(dim=-1)
        rows = rows[len(answer.input_ids) - 1 : -1]
        want = [row[token].item() for row, token in zip(rows, answer.token_ids, strict=True)]
        assert found.logprobs == pytest.approx(want, abs=2e-5)
        assert found.num_tokens == len(answer.input_ids) and found.max_difference < 5e-5
        assert found.behind == pytest.approx([0.0] * 5, abs=2e-5)
        # The engine goes on with its own attention.
        assert session.ask("what now?", max_tokens=5, fresh=True).token_ids == answer.token_ids


def test_all_choices_are_read_and_their_shares_shown(engine):
    session = engine.open("s", cells=200)
    session.push("some data").wait()
    answer = session.ask("which?", choices=CHOICES)
    found = engine.audit(answer)
    assert found.probabilities == pytest.approx(answer.probabilities, abs=1e-3)
    assert math.fsum(found.probabilities.values()) == pytest.approx(1.0)
    assert len(found.logprobs) == len(answer.token_ids) and found.max_difference < 5e-5
    assert f"'up' {answer.probabilities['up']:.3f}, here" in repr(found)


def test_a_wrong_answer_is_seen(engine):
    session = engine.open("s", cells=200)
    session.push("some data").wait()
    answer = session.ask("what?", max_tokens=3)
    assert repr(engine.audit(answer)).endswith("each is the likeliest here too)")
    other = (answer.token_ids[1] + 1) % 256
    answer.token_ids[1] = other
    found = engine.audit(answer)
    assert found.max_difference > 0.1 and found.behind[1] > 0.1
    assert "not the likeliest here" in repr(found)
    assert dataclasses.replace(found, behind=[0.0, 0.5, 0.0]).max_difference == found.max_difference


def test_of_closed_sessions_and_prompts_without_one(engine):
    session = engine.open("s", cells=200)
    session.push("some data").wait()
    answer = session.ask("what?", max_tokens=3)
    flash = session.flash("so?", max_tokens=2)
    flash.wait()
    session.close()
    assert engine.audit(answer).max_difference < 5e-5
    assert engine.audit(flash.answer).max_difference < 5e-5
    assert engine.audit(engine.generate("hello", max_tokens=2)).max_difference < 5e-5


def test_what_has_no_tokens_cannot_be_computed_again(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200)
    session.push("some data")
    answer = session.ask_start("what?", max_tokens=3)
    with pytest.raises(QuestionError, match=r"not complete; wait for it with answer\.result"):
        engine.audit(answer)
    answer.cancel()
    while engine.step():
        pass
    with pytest.raises(QuestionError, match="no tokens to compute again"):
        engine.audit(answer)
