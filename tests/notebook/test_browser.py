"""A person's view: JupyterLab in a real browser, the live dashboard, a question interrupted."""

import importlib.util
from pathlib import Path

import pytest

from workbench.notebook import lab as lab_tools
from workbench.notebook.lab import (
    PATIENCE_S,
    cell_errors,
    chromium,
    chromium_path,
    jupyterlab,
    open_notebook,
    run_all,
    shut_down,
    start_all,
    write_notebook,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium_path() is None or importlib.util.find_spec("playwright") is None,
        reason="needs chromium and playwright",
    ),
]

SETUP = """\
%load_ext workbench
import asyncio
import torch
import workbench as wb
from workbench.testing import tiny_model

torch.set_num_threads(1)
engine = wb.Engine(tiny_model(max_position_embeddings=16_384), cells=32_768)
s = engine.open("tape", cells=12_000)
q = s.flash("<img src=nowhere onerror=fetch('x')> Last?", max_tokens=4)"""

# The board's answer, collected apart for "while a cell awaits" and "while none runs".
COLLECT = """() => {
  window.seen = {busy: new Set(), idle: new Set()};
  const prompts = () => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
  setInterval(() => {
    const answer = document.querySelector('.workbench .answer');
    const marks = prompts().map(p => p.textContent);
    const last = marks[marks.length - 1];
    if (!answer) return;
    if (last.includes('*')) window.seen.busy.add(answer.textContent);
    else if (/[0-9]/.test(last)) window.seen.idle.add(answer.textContent);
  }, 30);
}"""
POINTS = """() => document.querySelector('.workbench .js-plotly-plot').data
  .reduce((sum, trace) => sum + (trace.x ? trace.x.length : 0), 0)"""

SHOWS = """words => [...document.querySelectorAll('.jp-CodeCell .jp-OutputArea-output')]
  .some(output => output.textContent.includes(words))"""


# JupyterLab says it itself when a kernel restarts while its debugger is being asked.
OF_JUPYTERLAB = "Could not restore the debugger state"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("lab")) as (url, notebooks):
        yield url, notebooks


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, lab):
    """A page whose errors and foreign requests are collected, and must stay none."""
    url, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1e3 * PATIENCE_S)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(f"page: {error}"))
    page.on(
        "console",
        lambda m: wrong.append(f"console: {m.text}")
        if m.type == "error" and not m.text.startswith(OF_JUPYTERLAB)
        else None,
    )
    page.on(
        "request",
        lambda request: None
        if request.url.startswith((url, url.replace("http", "ws"), "data:", "blob:"))
        else wrong.append(f"request: {request.url}"),
    )
    yield page
    shut_down(page)
    page.close()
    assert wrong == []


def test_the_dashboard_lives_while_a_cell_awaits_and_while_none_runs(lab, page):
    url, notebooks = lab
    cells = [
        SETUP,
        "wb.dashboard()",
        "rows = ({'price': i} for i in range(1_000_000))\n"
        "feed = s.stream(rows, rate=8, progress=False)",
        "while feed.rows_sent < 40:\n    await asyncio.sleep(0.05)\n"
        "a = await s.ask_async('Anything?', max_tokens=2)",
    ]
    write_notebook(notebooks / "live.ipynb", cells)
    open_notebook(page, url, "live.ipynb")
    page.evaluate(COLLECT)
    assert run_all(page) == []
    assert page.evaluate("window.seen.busy.size") >= 3
    before = page.evaluate(POINTS)
    page.wait_for_function("window.seen.idle.size >= 5")
    page.wait_for_function(f"before => ({POINTS})() > before", arg=before)
    board = page.locator(".workbench").first.text_content()
    assert "<img src=nowhere" in board and "tape" in board
    assert cell_errors(page) == []


def test_an_interrupt_keeps_the_text_and_the_next_cell_runs(lab, page):
    url, notebooks = lab
    cells = [
        SETUP + "\ns.push('one').wait()\nq.remove()\n"
        "engine.tokens.eos_ids = frozenset()  # it would end after a few random tokens",
        "%%stateful tape --max-tokens 3000 -o answer\nTell me everything.",
    ]
    write_notebook(notebooks / "stop.ipynb", cells)
    open_notebook(page, url, "stop.ipynb")
    start_all(page)
    page.wait_for_function(SHOWS, arg="decoding")
    widget = "window.jupyterapp.shell.currentWidget"
    page.evaluate(f"async () => {{ await {widget}.sessionContext.session.kernel.interrupt() }}")
    page.wait_for_function(SHOWS, arg="stopped")
    page.wait_for_function(SHOWS, arg="CancelledError: stopped, what has arrived stays")
    assert cell_errors(page) == ["CancelledError: "]
    said = lab_tools.execute(page, "print(answer.finish_reason, 0 < len(answer.token_ids) < 3000)")
    assert said == "cancelled True"


FEED = """\
rows = ({'price': i} for i in range(1_000_000))
feed = s.stream(rows, rate=8, progress=False)"""
# A session's version, as the page shows it; -1 where it shows none.
VERSION = """() => {
  const cell = document.querySelector('.wb-sessions tbody .wb-col-version');
  return cell ? Number(cell.textContent.replaceAll(',', '')) : -1;
}"""
THREADS = (
    "import threading; print(sorted(t.name for t in threading.enumerate() "
    "if t.name.startswith(('workbench', 'feed'))))"
)


def shows_newer(page, times=3):
    """Wait until the page has shown a newer version some times."""
    for _ in range(times):
        before = page.evaluate(VERSION)
        page.wait_for_function(f"before => ({VERSION})() > before", arg=before)


def test_a_flash_query_is_added_paused_and_removed_on_the_board(lab, page):
    url, notebooks = lab
    asked = "q = s.flash('Between $1 and $2?')\nq"
    cells = [SETUP + "\ns.push('one').wait()", asked, "q.remove()"]
    write_notebook(notebooks / "board.ipynb", [*cells, "wb.dashboard()"])
    open_notebook(page, url, "board.ipynb")
    assert run_all(page) == []
    assert page.locator("[data-lm-suppress-shortcuts] > .wb-latency").count() == 1
    board = page.locator(".wb-flash tbody tr")
    board.first.wait_for()
    page.get_by_label("Question", exact=True).fill("Is it <b>rising</b>?")
    page.get_by_label("Choices, separated by commas").fill("up, down")
    page.keyboard.press("Enter")
    page.get_by_label("Question", exact=True).fill("And what next?")  # before it was added
    row = board.filter(has_text="Is it <b>rising</b>?")
    row.locator(".answer").wait_for()
    assert page.get_by_label("Question", exact=True).input_value() == "And what next?"
    assert row.locator("b").count() == 0  # words stay words
    queries = "print([(q.question, q.choices, q.paused) for q in s.flash_queries][1:])"
    assert lab_tools.execute(page, queries) == "[('Is it <b>rising</b>?', ('up', 'down'), False)]"

    row.get_by_role("button", name="Pause").click()
    row.get_by_role("button", name="Resume").wait_for()
    assert lab_tools.execute(page, queries).endswith("True)]")
    lab_tools.execute(page, "s.push('two').wait()")
    page.wait_for_function(SHOWS, arg="1 tick")

    row.get_by_role("button", name="Remove").click()
    row.wait_for(state="detached")
    assert lab_tools.execute(page, queries) == "[]"

    page.get_by_label("Question", exact=True).fill("Which?")
    page.get_by_label("Choices, separated by commas").fill("one")
    page.locator(".wb-add").click()
    page.locator(".wb-error", has_text="at least two different texts").wait_for()
    assert page.get_by_label("Question", exact=True).input_value() == "Which?"
    assert page.locator(".jp-OutputArea", has_text="Between $1 and $2?").count() == 1
    assert page.locator("mjx-container").count() == 0  # amounts are no formulas


def test_the_dashboard_is_back_after_a_reload_and_after_its_cell_runs_again(lab, page):
    url, notebooks = lab
    write_notebook(notebooks / "reload.ipynb", [SETUP, "wb.dashboard()", FEED])
    open_notebook(page, url, "reload.ipynb")
    assert run_all(page) == []
    shows_newer(page)
    widget = "window.jupyterapp.shell.currentWidget"
    page.evaluate(f"async () => {{ await {widget}.context.save() }}")
    open_notebook(page, url, "reload.ipynb")
    shows_newer(page)
    assert page.locator(".wb-flash tbody tr").count() == 1
    page.wait_for_function(f"() => ({POINTS})() > 0")

    page.evaluate(f"() => {{ {widget}.content.activeCellIndex = 1 }}")
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-cell') }")
    shows_newer(page)
    assert page.locator(".wb-sessions").count() == 1
    assert lab_tools.execute(page, THREADS).count("workbench-pump") == 1
    assert cell_errors(page) == []


def test_a_dashboard_shown_twice_goes_on_when_one_is_cleared(lab, page):
    url, notebooks = lab
    cells = [SETUP, "board = wb.dashboard()\nboard", "board", FEED]
    write_notebook(notebooks / "twice.ipynb", cells)
    open_notebook(page, url, "twice.ipynb")
    assert run_all(page) == []
    plots = "document.querySelectorAll('.workbench .js-plotly-plot')"
    page.wait_for_function(f"() => {plots}.length === 2 && {plots}[1].data")
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1 }")
    clear = "notebook:clear-cell-output"
    page.evaluate(f"async () => {{ await window.jupyterapp.commands.execute('{clear}') }}")
    page.wait_for_function(f"() => {plots}.length === 1")
    lab_tools.execute(page, "_ = await s.ask_async('Anything?', max_tokens=2)")
    for _ in range(2):
        before = page.evaluate(POINTS)
        lab_tools.execute(page, "_ = await s.ask_async('Anything?', max_tokens=2)")
        page.wait_for_function(f"before => ({POINTS})() > before", arg=before)


def test_an_interrupt_leaves_the_dashboard_alive(lab, page):
    url, notebooks = lab
    cells = [SETUP, "wb.dashboard()", FEED, "import time\nprint('blocking')\ntime.sleep(600)"]
    write_notebook(notebooks / "interrupt.ipynb", cells)
    open_notebook(page, url, "interrupt.ipynb")
    start_all(page)
    page.wait_for_function(SHOWS, arg="blocking")
    shows_newer(page)  # also while a cell blocks
    widget = "window.jupyterapp.shell.currentWidget"
    page.evaluate(f"async () => {{ await {widget}.sessionContext.session.kernel.interrupt() }}")
    page.wait_for_function(SHOWS, arg="KeyboardInterrupt")
    shows_newer(page)


def test_a_restart_leaves_nothing_behind(lab, page):
    url, notebooks = lab
    write_notebook(notebooks / "restart.ipynb", [SETUP, "wb.dashboard()", FEED])
    open_notebook(page, url, "restart.ipynb")
    assert run_all(page) == []
    shows_newer(page)
    pid = "import os; print(os.getpid())"
    before = int(lab_tools.execute(page, pid))
    assert "workbench-pump" in lab_tools.execute(page, THREADS)
    widget = "window.jupyterapp.shell.currentWidget"
    page.evaluate(f"async () => {{ await {widget}.sessionContext.session.kernel.restart() }}")
    assert int(lab_tools.execute(page, pid)) != before
    assert lab_tools.execute(page, THREADS) == "[]"
    assert not Path(f"/proc/{before}").exists()


def test_fifty_ticks_a_second_are_few_messages(lab, page):
    url, notebooks = lab
    received = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: received.append(frame)))
    feed = FEED.replace("rate=8", "rate=50")
    write_notebook(notebooks / "busy.ipynb", [SETUP, "wb.dashboard()", feed])
    open_notebook(page, url, "busy.ipynb")
    assert run_all(page) == []
    shows_newer(page)
    before, began = page.evaluate(VERSION), page.evaluate("Date.now()")
    received.clear()
    page.wait_for_function(f"before => ({VERSION})() > before + 100", arg=before)
    seconds = (page.evaluate("Date.now()") - began) / 1e3
    assert len(received) / seconds < 100
    assert len(received) < 150  # of more than 100 ticks, each with an evaluation: far from each


def test_nothing_overflows_a_narrow_page_and_both_themes_are_readable(lab, page):
    url, notebooks = lab
    page.set_viewport_size({"width": 900, "height": 1000})
    cells = [SETUP + "\ns.push('a long row of words ' * 9).wait()", "wb.dashboard()"]
    write_notebook(notebooks / "narrow.ipynb", cells)
    open_notebook(page, url, "narrow.ipynb")
    assert run_all(page) == []
    page.locator(".wb-flash tbody tr .answer").first.wait_for()
    page.wait_for_function(FITS)
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', "
                  "{theme: 'JupyterLab Dark'})")  # fmt: skip
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_function(CONTRAST)


# Nothing inside the dashboard is wider than the dashboard.
FITS = """() => {
  const box = document.querySelector('.workbench').getBoundingClientRect();
  return [...document.querySelectorAll('.workbench *')].every(e => {
    const inner = e.getBoundingClientRect();
    return inner.width === 0 || e.closest('.js-plotly-plot svg, .wb-cut, .wb-words')
      || inner.right <= box.right + 1;
  });
}"""
# The board's words are at least 4.5 times as bright as what is behind them, or the reverse.
CONTRAST = """() => {
  const luminance = words => {
    const [r, g, b] = words.match(/[\\d.]+/g).map(Number)
      .map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = document.querySelector('.wb-question');
  let behind = words;
  while (/rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor)) {
    behind = behind.parentElement;
  }
  const [ink, paper] = [getComputedStyle(words).color, getComputedStyle(behind).backgroundColor]
    .map(luminance).sort((a, b) => b - a);
  return (ink + 0.05) / (paper + 0.05) >= 4.5;
}"""
