import gc
import json

import pytest

from workbench.notebook.flash_panel import FlashBoardPart, board_state
from workbench.notebook.panel import SHOWN
from workbench.notebook.view_model import Answers, FlashRow, PastAnswer

BAD = "<img src=x onerror=alert(1)>\"'"


def row(**changes):
    options = {
        "session": "btc", "name": "Up?", "question": "Up?", "choices": (), "answers": Answers(),
        "age": 0, "dropped": 0, "paused": False, "error": "", "state": "",
    }  # fmt: skip
    return FlashRow(**(options | changes))


def drawn(**changes):
    (shown,) = board_state({1: row(**changes)}, ["btc"], {})["rows"]
    return shown


@pytest.fixture
def part(stepped):
    """A board of one session with two flash queries that have answered once."""
    s = stepped.open("btc", cells=400)
    s.flash("Up?", choices=["up", "down"], name="trend")
    s.flash("Last?", max_tokens=2)
    s.push("one")
    while stepped.step():
        pass
    part = FlashBoardPart()
    part.draw(stepped, 0.0)
    return part


def test_a_row_says_what_a_query_answers(part, stepped):
    trend, last = part.panel.state["rows"]
    query, other = stepped.session("btc").flash_queries
    assert (trend["name"], trend["question"], last["name"]) == ("trend", "Up?", "")
    assert trend["text"] == query.answer.text == trend["choices"][trend["choice"]]
    assert trend["chances"] == [round(p, 3) for p in query.answer.probabilities.values()]
    assert (trend["age"], trend["version"], trend["evaluations"]) == (0, 1, 1)
    assert last["text"] == other.answer.text and last["chances"] == []
    assert part.panel.state["sessions"] == ["btc"]
    json.dumps(part.panel.state, allow_nan=False)


def test_a_query_without_an_answer_has_no_numbers():
    shown = drawn()
    assert [shown[name] for name in ("text", "confidence", "ms")] == [None, None, None]
    assert (shown["past"], shown["chances"], shown["name"]) == ([], [], "")


def test_past_answers_are_bars_up_or_down_of_two_choices():
    past = (PastAnswer(0, 0, 0.75, (0.75, 0.25)), PastAnswer(1, 1, 1.0, (0.0, 1.0)))
    assert drawn(choices=("up", "down"), answers=Answers(past=past))["past"] == [[0, 50], [1, -100]]


def test_past_answers_else_are_as_high_as_their_confidence():
    past = (PastAnswer(5, 2, 0.5, (0.2, 0.3, 0.5)), PastAnswer(4, -1, 1.0, ()))
    three = drawn(choices=("a", "b", "c"), answers=Answers(past=past[:1]))["past"]
    assert three == [[2, 50]]
    assert drawn(answers=Answers(past=past[1:]))["past"] == [[4, 100]]


def test_buttons_pause_resume_and_remove(part, stepped, click):
    query, other = stepped.session("btc").flash_queries
    for verb, then in (("pause", True), ("resume", False)):
        click(part.panel, action=verb, id=part.panel.state["rows"][0]["id"])
        part.act(stepped)
        part.draw(stepped, 0.0)
        assert query.paused is then is part.panel.state["rows"][0]["paused"]
    click(part.panel, action="remove", id=part.panel.state["rows"][0]["id"])
    part.act(stepped)
    part.draw(stepped, 0.0)
    assert query.removed and stepped.session("btc").flash_queries == [other]
    assert [shown["question"] for shown in part.panel.state["rows"]] == ["Last?"]


@pytest.mark.parametrize(
    "asked",
    [{"action": "remove", "id": 999}, {"action": "close", "id": 1}, {"action": "pause"},
     {"action": "pause", "id": "1"}, {"action": "add", "question": "Up?"}],
)  # fmt: skip
def test_what_makes_no_sense_changes_nothing(part, stepped, click, asked):
    before = part.panel.state
    click(part.panel, **asked)
    part.act(stepped)
    part.draw(stepped, 0.0)
    assert part.panel.state == before


def test_ids_stay_and_are_not_given_twice(part, stepped):
    first, second = (shown["id"] for shown in part.panel.state["rows"])
    s = stepped.session("btc")
    s.flash_queries[0].remove()
    gc.collect()
    s.flash("New?")
    part.draw(stepped, 0.0)
    kept, new = (shown["id"] for shown in part.panel.state["rows"])
    assert kept == second and new not in (first, second)


def test_a_query_that_was_removed_is_not_kept_alive(part, stepped):
    stepped.session("btc").flash_queries[0].remove()
    gc.collect()
    assert len(part._ids) == len(part._answers) == 1


def test_the_form_adds_a_query(part, stepped, click):
    form = {"session": "btc", "question": " Is it high? ", "choices": "yes, no ,"}
    click(part.panel, action="add", token="t1", **form)
    part.act(stepped)
    part.draw(stepped, 0.0)
    *_, query = stepped.session("btc").flash_queries
    assert (query.question, query.choices) == ("Is it high?", ("yes", "no"))
    assert part.panel.state["added"] == {"token": "t1", "error": ""}
    assert part.panel.state["rows"][-1]["question"] == "Is it high?"
    click(part.panel, action="add", token="t2", session="btc", question="Open?", choices=" ")
    part.act(stepped)
    assert stepped.session("btc").flash_queries[-1].choices == ()


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"session": "btc", "question": " "}, "expected a question, got nothing"),
        ({"session": "btc", "question": "Up?", "choices": "up"}, "at least two different texts"),
        ({"session": "gone", "question": "Up?"}, "no session 'gone' is open"),
    ],
)  # fmt: skip
def test_the_form_says_why_it_could_not(part, stepped, click, form, error):
    click(part.panel, action="add", token="t1", **form)
    part.act(stepped)
    part.draw(stepped, 0.0)
    said = part.panel.state["added"]
    assert said["token"] == "t1" and error in said["error"] and "\n" not in said["error"]
    assert len(part.panel.state["rows"]) == 2


def test_words_are_handed_over_as_words(stepped, run_dry):
    s = stepped.open("<i>x</i>", cells=400)
    s.flash(BAD, choices=[BAD, "no"], name="<u>")
    s.push("one")
    run_dry(stepped)
    part = FlashBoardPart()
    part.draw(stepped, 0.0)
    (shown,) = part.panel.state["rows"]
    assert (shown["question"], shown["choices"], shown["name"]) == (BAD, [BAD, "no"], "<u>")


def test_many_queries_are_cut_short():
    state = board_state({i: row() for i in range(SHOWN + 10)}, ["btc"], {})
    assert len(state["rows"]) == SHOWN and state["more"] == 10
    numbers = [line["id"] for line in state["rows"]]
    assert numbers == list(range(10, SHOWN + 10))
    failing = {i: row(error="no" if i == 3 else "") for i in range(SHOWN + 10)}
    numbers = [line["id"] for line in board_state(failing, ["btc"], {})["rows"]]
    assert numbers == [3, *range(11, SHOWN + 10)]


def test_it_keeps_its_last_picture_of_an_engine_that_was_closed(part, stepped):
    before = part.panel.state
    stepped.close()
    part.draw(stepped, 0.0)
    assert part.panel.state == before
