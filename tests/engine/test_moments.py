"""Asked as of an earlier moment, an answer is the one plain transformers gives over that prefix."""

import pytest

import workbench as wb
from workbench.errors import QuestionError
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    FAMILIES,
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
)

BOUND = 5e-5


def text(number: int) -> str:
    return f"{number}:" + "abcdefghij"[: 3 + number * 7 % 8]


def context(engine, answer) -> list[str]:
    return engine.tokens.text(answer.input_ids[: answer.context]).splitlines()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_can_be_asked_about_also_inside_a_tick(make_engine, family):
    engine = make_engine(family, start=False, limits=StepLimits(tokens=24))
    session = engine.open("s", cells=600)
    session.push([text(i) for i in range(12)])
    session.push(text(12))
    session.push([text(i) for i in range(13, 20)])
    answers = [session.ask_start("so?", max_tokens=3, at=n, fresh=True) for n in (1, 7, 12, 13, 19)]
    chosen = session.ask_start("so?", choices=["up", "down"], at=wb.version(2))
    while engine.step():
        check_books(engine)
    poison_free_cells(engine)
    late = session.ask_start("so?", max_tokens=3, at=wb.row(-3))
    run_until_idle(engine)
    got = [(a.row, a.version) for a in (*answers, chosen, late)]
    assert got == [(1, 0), (7, 0), (12, 1), (13, 2), (19, 2), (13, 2), (17, 2)]
    for answer in (*answers, chosen, late):
        assert context(engine, answer) == [text(i) for i in range(answer.row)]
        assert_recomputes(engine.decoder.model, answer, BOUND)
    session.close()


def test_before_the_first_row_only_the_prompt_is_read(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", prompt="You watch.", cells=300)
    session.push("one")
    run_until_idle(engine)
    answer = session.ask_start("so?", max_tokens=2, at=0)
    run_until_idle(engine)
    assert answer.position == len(engine.tokens.head("You watch.")) and answer.row == 0
    assert_recomputes(engine.decoder.model, answer, BOUND)


@pytest.mark.parametrize("overflow", ["rebuild", "evict"])
def test_a_moment_in_a_window_is_its_rows_up_to_there(make_engine, overflow):
    engine = make_engine(start=False, cells=1024, limits=StepLimits(tokens=24))
    session = engine.open("s", cells=240, overflow=overflow)
    asked = []
    for number in range(80):
        session.push(text(number))
        run_until_idle(engine)
        first = session.ingest.first_row
        if number % 6 == 5:
            asked += [session.ask_start("so?", max_tokens=2, at=n) for n in (first + 1, number)]
        if first:
            gone = session.ask_start("so?", at=first)
            run_until_idle(engine)
            with pytest.raises(QuestionError, match="have left the window"):
                gone.result()
    assert session.ingest.first_row > 40
    run_until_idle(engine)
    for answer in asked:
        rows = context(engine, answer)
        assert rows == [text(i) for i in range(answer.row - len(rows), answer.row)]
        assert len(rows) >= 1
        if overflow == "rebuild":
            assert_recomputes(engine.decoder.model, answer, BOUND)
    check_books(engine)


def test_a_moment_that_is_not_there_is_one_clear_error(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=300)
    session.push(["one", "two"])
    for at in (3, wb.version(2), wb.row(-5)):
        answer = session.ask_start("so?", at=at)
        run_until_idle(engine)
        with pytest.raises(QuestionError, match="goes from row 0 to 2, version 0 to 1"):
            answer.result()
    assert engine.core.scratch == 0
    with pytest.raises(QuestionError, match="whole number"):
        session.ask_start("so?", at="2")


def test_a_moment_that_comes_is_waited_for_and_one_that_has_come_is_not(make_engine):
    engine = make_engine(start=False, limits=StepLimits(tokens=8))
    session = engine.open("s", cells=600)
    session.push("one")
    run_until_idle(engine)
    session.push([text(i) for i in range(30)])
    early = session.ask_start("so?", max_tokens=1, at=1)
    late = session.ask_start("so?", max_tokens=1, at=20)
    engine.step(), engine.step(), engine.step()
    assert early.done and not late.done
    run_until_idle(engine)
    assert late.result().row == 20


def test_an_evicted_session_comes_back_for_an_earlier_moment(make_engine):
    engine = make_engine(start=False, cells=512, watermark=128)
    first = engine.open("first", cells=300, evictable=True)
    first.push([text(i) for i in range(10)])
    run_until_idle(engine)
    second = engine.open("second", cells=300, evictable=True)
    second.push("one")
    run_until_idle(engine)
    answer = first.ask_start("so?", max_tokens=2, at=4)
    run_until_idle(engine)
    assert context(engine, answer) == [text(i) for i in range(4)]
    assert_recomputes(engine.decoder.model, answer, BOUND)


def test_a_flash_answer_does_not_stand_in_for_an_earlier_moment(engine):
    session = engine.open("s", cells=300)
    query = session.flash("so?", max_tokens=2)
    session.push(["one", "two"]).wait()
    query.wait()
    assert session.ask("so?", max_tokens=2).from_flash
    early = session.ask("so?", max_tokens=2, at=1)
    assert not early.from_flash and early.row == 1 and early.at == wb.row(1)
    assert "as of row 1" in repr(early)


def test_a_tokenizer_that_joins_rows_has_no_moment_between_them(engine):
    session = engine.open("s", cells=300)
    rows = engine.tokens.rows
    engine.tokens.rows = lambda texts: (rows(texts)[0], [0, -1, *rows(texts)[1][2:]])
    session.push(["one", "two", "three"]).wait()
    with pytest.raises(QuestionError, match="ends inside a token"):
        session.ask("so?", at=1)
    assert session.ask("so?", max_tokens=1, at=2).row == 2
