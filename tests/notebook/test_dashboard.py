import gc
import re
import threading

import ipywidgets as widgets
import pytest
from ipywidgets.widgets.widget import _instances

import workbench as wb
from workbench import notebook
from workbench.errors import EngineClosed, QuestionError
from workbench.notebook import dashboard as dashboards
from workbench.notebook.dashboard import PARTS, Dashboard

TABLES = ("sessions", "flash")


def note(box):
    """The notes that the page shows: of the whole, then of each part."""
    *_, whole, body = box.children
    notes = [whole, *(part.children[0] for part in body.children)]
    return [found.value for found in notes if found.layout.display != "none"]


class FakePart:
    """A part that notes what it is called with, and fails where it is told to."""

    def __init__(self, name="fake"):
        self.name = name
        self.widgets = [widgets.Label("picture")]
        self.events, self.drawn, self.acted, self.threads = [], 0, 0, set()
        self.fails = ""

    def take(self, event):
        self.events.append(event)
        self._maybe_fail("take")

    def act(self, engine):
        self.acted += 1
        self._maybe_fail("act")

    def draw(self, engine, now):
        self.drawn += 1
        self.threads.add(threading.current_thread())
        self._maybe_fail("draw")

    def _maybe_fail(self, where):
        if self.fails == where:
            raise ValueError(f"<b>{where}</b>")


@pytest.fixture
def shown(engine):
    """Dashboards of an engine with one session and a flash query, closed at the end."""
    s = engine.open("btc", cells=400)
    s.flash("Is it up?", choices=["up", "down"])
    boxes = []

    def show(what=wb.dashboard, *args):
        boxes.append(what(engine, *args))
        return boxes[-1]

    yield show
    for box in boxes:
        box.close()


@pytest.fixture
def by_hand(stepped):
    """A dashboard of fake parts, or of these, whose pump has stopped: ``refresh`` is a beat."""
    boxes = []

    def make(*parts):
        box = Dashboard(stepped, parts)
        box._pump.stop()
        boxes.append(box)
        return box

    yield make
    for box in boxes:
        box.close()


def row(box, question="Is it up?"):
    rows = box.parts["flash"].panel.state["rows"]
    return next((shown for shown in rows if shown["question"] == question), None)


def test_it_follows_the_engine_while_nobody_asks_it_to(shown, engine, eventually):
    box = shown(wb.dashboard, TABLES)
    assert row(box)["session"] == "btc"
    s = engine.session("btc")
    s.push(["one", "two"]).wait(60)
    sessions = box.parts["sessions"].panel
    eventually(lambda: sessions.state["rows"][0]["tokens"] == s.position)
    assert sessions.state["rows"][0]["rows"] == 2
    eventually(lambda: row(box)["text"] in ("up", "down") and row(box)["age"] == 0)


def test_clicks_reach_a_running_engine(shown, engine, eventually, click):
    box = shown(wb.dashboard, TABLES)
    panel = box.parts["flash"].panel
    (query,) = engine.session("btc").flash_queries
    click(panel, action="pause", id=row(box)["id"])
    eventually(lambda: query.paused and row(box)["paused"])
    engine.session("btc").push("one").wait(60)
    eventually(lambda: row(box)["age"] == 1)
    click(panel, action="resume", id=row(box)["id"])
    eventually(lambda: query.is_fresh and row(box)["age"] == 0 and not row(box)["paused"])
    click(panel, action="add", token="t", session="btc", question="New?", choices="a, b")
    added = eventually(lambda: row(box, "New?"))
    assert added["choices"] == ["a", "b"] and panel.state["added"]["error"] == ""
    eventually(lambda: row(box, "New?")["text"] in ("a", "b"))
    click(panel, action="remove", id=row(box)["id"])
    eventually(lambda: row(box) is None)
    assert query.removed and len(engine.session("btc").flash_queries) == 1


def test_all_its_parts_are_shown_in_order(shown):
    box = shown()
    assert tuple(box.parts) == PARTS == ("sessions", "flash", "cells", "steps", "latency")
    assert not box.closed and note(box) == []
    assert repr(box) == "Dashboard('LlamaForCausalLM', sessions, flash, cells, steps, latency)"


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("session_monitor", "sessions"), ("flash_board", "flash"), ("cell_map", "cells"),
        ("step_timeline", "steps"), ("latency_plot", "latency"),
    ],
)  # fmt: skip
def test_its_parts_can_be_had_alone(shown, function, part):
    for _ in range(2):  # the function is still there once the part's module was imported
        box = shown(getattr(notebook, function))
        assert tuple(box.parts) == (part,) and not box.closed


def test_parts_side_by_side_are_marked_where_both_are_shown(shown):
    def halves(box):
        return [
            name
            for name, part in zip(box.parts, box.children[-1].children, strict=True)
            if "workbench-half" in part._dom_classes
        ]

    assert halves(shown()) == ["cells", "steps"]
    assert halves(shown(wb.dashboard, ("sessions", "cells"))) == []


@pytest.mark.parametrize("parts", [(), ("flash", "clock"), ("flash", "flash"), "clock"])
def test_unknown_parts_are_refused_in_one_line(shown, parts):
    with pytest.raises(QuestionError, match=r"expected some of 'sessions', 'flash', .* each once"):
        shown(wb.dashboard, parts)


def test_one_part_may_be_named_without_a_tuple(shown):
    assert tuple(shown(wb.dashboard, "flash").parts) == ("flash",)


def test_showing_it_again_closes_the_one_before(shown):
    first, other = shown(wb.dashboard, TABLES), shown(wb.dashboard, ("flash",))
    second = shown(wb.dashboard, TABLES)
    assert first.closed and not second.closed and not other.closed


def test_running_its_cell_again_closes_it_whatever_it_shows(shown, monkeypatch):
    class Shell:
        def __init__(self, cell, run):
            self.parent = {"metadata": {"cellId": cell}, "header": {"msg_id": run}}

        def get_parent(self):
            return self.parent

    def run(cell, run):
        monkeypatch.setattr(dashboards, "get_ipython", lambda: Shell(cell, run))

    run("a", "1")
    first, beside = shown(), shown(notebook.flash_board)
    run("b", "2")
    elsewhere = shown(notebook.cell_map)
    assert not (first.closed or beside.closed)
    run("a", "3")
    again = shown(notebook.session_monitor)
    assert first.closed and beside.closed and not (elsewhere.closed or again.closed)


def test_close_ends_its_thread_and_may_come_twice(shown, engine):
    box = shown(wb.dashboard, TABLES)
    thread = box._pump._thread
    assert thread in threading.enumerate()
    box.close()
    box.close()
    assert box.closed and box.comm is None and thread not in threading.enumerate()
    engine.session("btc").push("one").wait(60)  # nothing is left that listens
    assert len(box._events) == 0


def test_closing_it_leaves_no_widget_behind(engine):
    engine.open("btc", cells=400)
    wb.dashboard(engine).close()  # what is made once for all
    before = len(_instances)
    wb.dashboard(engine).close()
    assert len(_instances) == before


def test_a_closed_engine_leaves_its_last_picture(shown, engine, eventually):
    box = shown(wb.dashboard, TABLES)
    eventually(lambda: row(box))
    engine.close()
    eventually(lambda: box.closed and not box._pump._thread.is_alive())
    assert note(box) == ["The engine was closed; this is the last picture of it."]
    assert row(box) and box.parts["sessions"].panel.state["rows"][0]["name"] == "btc"
    assert all(part.panel.over for part in box.parts.values())  # its buttons are off


def test_it_does_not_keep_an_engine_alive(make_engine, eventually):
    other = make_engine(start=False)
    dropped = wb.Engine((other.decoder.model, other.tokenizer), cells=64, start=False)
    box = Dashboard(dropped, [FakePart()])
    dropped.close()
    del dropped
    gc.collect()
    eventually(lambda: box.closed)
    assert box._engine() is None
    box.close()


def test_without_an_engine_it_says_what_to_do():
    with pytest.raises(EngineClosed, match=r"open one with engine = wb\.Engine\(\)"):
        wb.dashboard()


def test_only_the_pump_calls_its_parts(stepped, eventually):
    part = FakePart()
    box = Dashboard(stepped, [part])
    eventually(lambda: part.drawn > 3)
    box.close()
    assert part.threads == {
        threading.current_thread(),
        box._pump._thread,
    }  # the first, then the pump


@pytest.mark.parametrize("where", ["take", "act", "draw"])
def test_a_part_that_fails_stops_no_other(by_hand, stepped, capsys, where):
    bad, good = FakePart("steps"), FakePart("cells")
    box = by_hand(bad, good)
    bad.fails = where
    for i in range(3):
        stepped.open(f"s{i}", cells=10)
        box.refresh()
    assert (good.drawn, good.acted, len(good.events)) == (4, 4, 3)
    said = f"&lt;b&gt;{where}&lt;/b&gt;"
    assert note(box) == [f"the part &#x27;steps&#x27; could not be drawn (ValueError: {said})"]
    assert capsys.readouterr().err.count("'steps' could not be drawn") == 1
    place = box.children[-1].children[0]
    assert place.children[1].layout.display == "none"
    bad.fails = ""
    box.refresh()
    assert note(box) == [] and place.children[1].layout.display is None


def test_a_part_that_fails_since_the_engine_closes_is_no_fault(by_hand, stepped, capsys):
    part = FakePart()
    box = by_hand(part)
    part.act = lambda engine: (engine.close(), engine.call(print))
    box.refresh()
    assert capsys.readouterr().err == "" and box.closed
    assert note(box) == ["The engine was closed; this is the last picture of it."]


def test_events_between_two_beats_are_bounded(by_hand, stepped, monkeypatch):
    monkeypatch.setattr("workbench.notebook.dashboard.QUEUE", 5)
    part = FakePart()
    box = by_hand(part)
    for i in range(12):
        stepped.open(f"s{i}", cells=10)
    box.refresh()
    assert [event.session for event in part.events] == [f"s{i}" for i in range(7, 12)]


def test_nothing_is_sent_when_nothing_has_changed(stepped, run_dry, by_hand, sent):
    s = stepped.open("btc", cells=400)
    s.flash("Is it up?", choices=["up", "down"])
    s.push("one")
    run_dry(stepped)
    shown = wb.dashboard(stepped, TABLES)
    shown._pump.stop()
    sent.clear()
    for _ in range(5):
        shown.refresh()
    assert sent == []
    shown.close()


def test_a_beat_sends_at_most_one_message_per_table(stepped, run_dry, sent):
    sessions = [stepped.open(f"s{i}", cells=200) for i in range(4)]
    for s in sessions:
        s.flash("Is it up?", choices=["up", "down"])
    shown = wb.dashboard(stepped, TABLES)
    shown._pump.stop()
    sent.clear()
    for beat in range(3):
        for s in sessions:
            s.push(f"row {beat}")
        run_dry(stepped)
        shown.refresh()
    assert len(sent) == 3 * len(TABLES)
    assert all(list(message["state"]) == ["state"] for message in sent)
    shown.close()


def test_the_style_is_on_the_page_once(shown):
    style = shown(wb.dashboard, TABLES).children[0]
    assert re.match(r"<style>.*--wb-0: #\w{6}", style.value, re.DOTALL)
