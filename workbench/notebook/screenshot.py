"""``python -m workbench.notebook.screenshot FOLDER``: pictures of the live dashboard.

Starts JupyterLab on a notebook that streams three symbols of the seeded market into three sessions
with flash queries, waits until the dashboard has something to show, and takes a picture in the
light and the dark theme, 1400 and 900 pixels wide. Then one of a notebook with questions in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from workbench.notebook.lab import (
    cell_errors,
    chromium,
    jupyterlab,
    open_notebook,
    run_all,
    shut_down,
    write_notebook,
)

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SIZES = ((1400, 2400), (900, 2900))  # as high as the whole dashboard needs
BUSY_POINTS = 150  # answers in the plot before the picture is taken

CELLS = [
    """\
%load_ext workbench
import polars as pl
import workbench as wb
from workbench.streams.market import market

engine = wb.Engine()
bars = {symbol: market(900, seed=7 + i, symbols=(symbol,), start=start)
        for i, (symbol, start) in enumerate([("BTC", 68_000.0), ("ETH", 3_500.0), ("SOL", 150.0)])}
for symbol, frame in bars.items():
    s = engine.open(symbol.lower(), prompt="You watch the tape.", schema="ohlcv", cells=16_384)
    s.push(frame.head({"BTC": 100, "ETH": 50, "SOL": 12}[symbol]).drop("time")).wait()
btc, eth, sol = engine.sessions.values()
btc.flash("Is the trend up or down?", choices=["up", "down"], name="trend")
btc.flash("Was the last bar up or down?", choices=["up", "down"], name="bar")
eth.flash("Is the price up or down over the last 5 bars?", choices=["up", "down"], name="5 bars")
sol.flash("What was the last close?", max_tokens=8, name="close")""",
    "wb.dashboard()",
    """\
import asyncio
feeds = [s.stream(bars[s.name.upper()].tail(-240).drop("time"), rate=rate, progress=False)
         for s, rate in ((btc, 4), (eth, 2), (sol, 3))]

async def ask_now_and_then():
    for i in range(200):
        s = (btc, eth, sol)[i % 3]
        await s.ask_async("What was the last close?", max_tokens=8)
        await s.ask_async("Is the trend up or down?", choices=["up", "down"])
        if i % 9 == 4:
            await s.ask_stateless_start("What was the last close?", max_tokens=8)
        await asyncio.sleep(0.25)

asking = asyncio.create_task(ask_now_and_then())""",
]

QUESTIONS = [
    CELLS[0].partition("btc, eth, sol")[0],
    "%%stateful btc --max-tokens 8\nWhat was the last close?",
    "%%stateful btc --choices up,down --at 60\nWas the last bar up or down?",
    "%%stateful btc --choices up,down --backtest 2\nWas the last bar up or down?",
    "%stateful list",
]


def take(folder: Path) -> list[Path]:
    """Take the pictures; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for theme, name in THEMES.items():
        with tempfile.TemporaryDirectory() as place, jupyterlab(Path(place), theme=name) as lab:
            url, notebooks = lab
            write_notebook(notebooks / "live.ipynb", CELLS)
            with chromium() as browser:
                page = browser.new_page(viewport=_viewport(SIZES[0]), device_scale_factor=1.5)
                open_notebook(page, url, "live.ipynb")
                if errors := run_all(page):
                    raise RuntimeError("; ".join(errors))
                page.wait_for_function(_PLOTTED, arg=BUSY_POINTS)
                for size in SIZES:
                    taken.append(folder / f"dashboard-{theme}-{size[0]}.png")
                    _take_one(page, size, taken[-1])
                if errors := cell_errors(page):
                    raise RuntimeError("; ".join(errors))
                shut_down(page)
                taken.append(folder / f"questions-{theme}.png")
                _take_questions(page, url, notebooks, taken[-1])
    return taken


def _take_questions(page: Any, url: str, notebooks: Path, path: Path) -> None:
    write_notebook(notebooks / "questions.ipynb", QUESTIONS)
    page.set_viewport_size({"width": 1100, "height": 1500})
    open_notebook(page, url, "questions.ipynb")
    if errors := run_all(page):
        raise RuntimeError("; ".join(errors))
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    cells = page.locator(".jp-CodeCell")
    first, last = cells.nth(1).bounding_box(), cells.last.bounding_box()
    page.screenshot(path=path, clip={
        "x": first["x"], "y": first["y"], "width": first["width"],
        "height": last["y"] + last["height"] - first["y"],
    })  # fmt: skip
    shut_down(page)


def _viewport(size: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("width", "height"), size, strict=True))


# the number of points in the plot, over all traces
_PLOTTED = """least => {
  const plot = document.querySelector('.workbench .js-plotly-plot');
  return plot && plot.data.reduce((sum, t) => sum + (t.x ? t.x.length : 0), 0) >= least;
}"""


def _take_one(page: Any, size: tuple[int, int], path: Path) -> None:
    page.set_viewport_size(_viewport(size))
    board = page.locator(".workbench").first
    board.scroll_into_view_if_needed()
    page.wait_for_function(_FITS)
    board.screenshot(path=path)


# the plot has taken on the new width
_FITS = """() => {
  const plot = document.querySelector('.workbench .js-plotly-plot .main-svg');
  const box = document.querySelector('.workbench-plot');
  return plot && Math.abs(plot.getBoundingClientRect().width - box.clientWidth) < 12;
}"""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Take pictures of the live dashboard.")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    for path in take(parser.parse_args(arguments).folder):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
