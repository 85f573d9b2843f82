import re
import threading
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from ipykernel.comm.comm import BaseComm

from workbench.notebook.markup import ALARM, COLOURS, QUIET
from workbench.notebook.panel import Panel, script, shown_ms, static

STATIC = sorted(path.name for path in (files("workbench.notebook") / "static").iterdir())


@pytest.fixture
def panel():
    made = Panel()
    yield made
    made.close()


def test_an_equal_state_is_not_sent_again(panel, sent):
    panel.show({"rows": [1]})
    panel.show({"rows": [1]})
    assert [message["state"] for message in sent] == [{"state": {"rows": [1]}}]
    panel.show({"rows": [2]})
    assert len(sent) == 2


def test_what_the_browser_sends_is_handed_out_once_in_order(panel, click):
    click(panel, action="pause", id=1)
    click(panel, action="remove", id=2)
    assert panel.actions() == [{"action": "pause", "id": 1}, {"action": "remove", "id": 2}]
    assert panel.actions() == []


@pytest.mark.parametrize("content", [None, "pause", [1], {}, {"action": 3}])
def test_what_is_no_action_is_dropped(panel, content):
    panel._handle_custom_msg(content, [])
    assert panel.actions() == []


def test_the_browser_may_send_from_any_thread(panel, click):
    threads = [
        threading.Thread(target=lambda i=i: click(panel, action="pause", id=i)) for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked["id"] for asked in panel.actions()) == list(range(20))


def test_a_click_comes_by_the_subshell_it_was_sent_to(monkeypatch):
    monkeypatch.setattr("comm.create_comm", BaseComm)
    panel = Panel()
    panel.comm._reply_subshell_id = "of a page that is gone"
    route = getattr(panel.comm, "_reply_subshell_for", lambda data, subshell: subshell)
    assert route({"method": "custom", "content": {"action": "pause"}}, "mine") == "mine"
    panel.close()


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.0414, 0.04), (5.04, 5.0), (250.4, 250.0), (float("nan"), None)]
)
def test_milliseconds_have_the_digits_that_are_shown(ms, shown):
    assert shown_ms(ms) == shown


def test_the_style_has_the_colours_of_the_markup():
    found = dict(re.findall(r"--wb-(\w+): (#[0-9a-f]{6});", static("workbench.css")))
    expected = {str(index): colour for index, colour in enumerate(COLOURS)}
    assert found == expected | {"quiet": QUIET, "alarm": ALARM}


@pytest.mark.parametrize("name", [name for name in STATIC if name.endswith(".js")])
def test_no_script_makes_markup_of_words_or_asks_the_network(name):
    text = static(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"https?:|fetch\(|XMLHttp|WebSocket|import\(|^import ", text, re.MULTILINE)


def test_a_script_brings_the_shared_helpers():
    assert script("flash_board.js") == static("shared.js") + static("flash_board.js")


def test_static_files_are_in_the_wheel():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["workbench"]
    root = files("workbench")
    shipped = {path.name for pattern in patterns for path in Path(str(root)).glob(pattern)}
    assert set(STATIC) <= shipped and "workbench.css" in STATIC
