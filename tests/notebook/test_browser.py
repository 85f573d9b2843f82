"""A person's view: JupyterLab in a real browser, the live dashboard, a question interrupted."""

import importlib.util

import pytest

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
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
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
        "while feed.rows_sent < 25:\n    await asyncio.sleep(0.05)\n"
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
    page.wait_for_function(SHOWS, arg="KeyboardInterrupt")
    assert cell_errors(page) == ["KeyboardInterrupt: "]
    outcome = page.evaluate(
        f"""async () => {{
          const kernel = {widget}.sessionContext.session.kernel;
          const code = 'print(answer.finish_reason, 0 < len(answer.token_ids) < 3000)';
          let said = '';
          while (!said) {{  // a kernel drops what it is sent right after an error
            const future = kernel.requestExecute({{code}});
            future.onIOPub = m => {{ said += m.content.text || m.content.ename || '' }};
            await future.done;
          }}
          return said.trim();
        }}"""
    )
    assert outcome == "cancelled True"
