import re

import pytest

import workbench as wb
from workbench import notebook
from workbench.errors import EngineClosed
from workbench.notebook.board import flash_html, sessions_html
from workbench.notebook.view_model import SessionRow, flash_rows


def words(box):
    html = "\n".join(child.value for child in box.children if hasattr(child, "value"))
    html = re.sub(r"<style>.*?</style>|<title>.*?</title>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


def figure(box):
    return box.children[-1].children[0]


@pytest.fixture
def shown(engine):
    """Dashboards of an engine with one session and a flash query, closed at the end."""
    s = engine.open("btc", cells=400)
    s.flash("Is it up?", choices=["up", "down"])
    boxes = []

    def show(what=wb.dashboard):
        boxes.append(what(engine))
        return boxes[-1]

    yield show
    for box in boxes:
        box.close()


def test_it_follows_the_engine_while_nobody_asks_it_to(shown, engine, eventually):
    box = shown()
    assert "Is it up? btc no answer yet" in words(box) or "fresh" in words(box)
    s = engine.session("btc")
    s.push(["one", "two"]).wait(60)
    answer = s.ask("Anything?", max_tokens=2)
    eventually(lambda: f"{answer.position:,} of 400 2 1 0" in words(box))
    eventually(lambda: answer.position in list(figure(box).data[0].x))
    assert eventually(lambda: re.search(r"Is it up\? btc (up|down) \d+% fresh", words(box)))


def test_its_parts_can_be_had_alone(shown):
    board, plot = shown(notebook.flash_board), shown(notebook.latency_plot)
    assert "Flash queries" in words(board) and "Sessions" not in words(board)
    assert "Latency" not in words(board) and len(figure(plot).data) == 5
    assert not board.closed and not plot.closed


def test_showing_it_again_closes_the_one_before(shown):
    first = shown()
    second = shown()
    assert first.closed and not second.closed


def test_the_scale_is_switched_by_the_pump_only(shown, eventually):
    box = shown()
    scale = box.children[-2].children[1]
    assert figure(box).layout.yaxis.type == "log"
    scale.value = False
    eventually(lambda: figure(box).layout.yaxis.type == "linear")


def test_close_ends_updates_and_may_come_twice(shown, engine):
    box = shown()
    box.close()
    box.close()
    assert box.closed and box.comm is None
    engine.session("btc").push("one").wait(60)  # nothing is left that listens


def test_a_closed_engine_leaves_its_last_picture(shown, engine, eventually):
    box = shown()
    engine.close()
    eventually(lambda: box.closed)
    assert "closed" in words(box)


def test_without_an_engine_it_says_what_to_do():
    with pytest.raises(EngineClosed, match=r"open one with engine = wb\.Engine\(\)"):
        wb.dashboard()


def test_nobodys_words_become_markup(stepped):
    bad = "<img src=x onerror=alert(1)>\"'"
    s = stepped.open("<i>x</i>", cells=400)
    s.flash(bad, choices=[bad, "no"], name="<u>")
    s.push("one")
    while stepped.step():
        pass
    html = flash_html(flash_rows(stepped, 0.0))
    html += sessions_html([SessionRow("<i>x</i>", 1, 2, "error", 0, 0, 0, 3, 0.1, "<s>")])
    assert not re.search(r"<(img|i|u|s)\b", html)
    assert "&lt;img src=x" in html and "&lt;i&gt;" in html and "3 rows dropped" in html


def test_many_queries_are_cut_short(stepped):
    s = stepped.open("btc", cells=400)
    for i in range(70):
        s.flash(f"Is it up {i}?")
    assert "and 10 more" in flash_html(flash_rows(stepped, 0.0))
