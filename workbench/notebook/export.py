"""Figures and their frames as files: PNG, HTML, parquet and CSV, by the file's suffix."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.notebook.figures import latency_figure
from workbench.notebook.lab import chromium, chromium_path
from workbench.waiting import aside

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

WIDTH = 1000  # pixels of a picture, before `SCALE`
SCALE = 2


def export_latency(frame: pl.DataFrame, path: str | Path, *, log: bool = True) -> Path:
    """Write what `latency_frame` gave: its figure (.png, .html) or its rows (.parquet, .csv).

    Args:
        frame: the points.
        path: where to; the suffix says as what.
        log: scale the figure's milliseconds.

    Raises:
        WorkbenchError: the suffix is none of these, or nothing here can make a PNG.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".parquet":
            frame.write_parquet(path)
        case ".csv":
            frame.write_csv(path)
        case ".html" | ".png":
            export_figure(latency_figure(frame, log=log, height=480), path)
        case suffix:
            msg = (
                f"cannot write {path.name}: expected a name that ends in .png, .html, .parquet or "
                f".csv, got {suffix!r}"
            )
            raise WorkbenchError(msg)
    return path


def export_figure(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as an HTML page that needs no network, or as a PNG.

    A PNG is drawn by Chromium through playwright, or by kaleido, whichever is installed.

    Raises:
        WorkbenchError: the suffix is neither, or there is nothing to draw a PNG with.
    """
    path = Path(path)
    if path.suffix.lower() == ".html":
        figure.write_html(path, include_plotlyjs=True, full_html=True)
    elif path.suffix.lower() == ".png":
        path.write_bytes(_png(figure))
    else:
        msg = f"cannot write {path.name}: expected .png or .html, got {path.suffix!r}"
        raise WorkbenchError(msg)
    return path


def _png(figure: go.Figure) -> bytes:
    import plotly.graph_objects as go

    page = go.Figure(figure)
    page.update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color="#3b424a",
                       width=WIDTH, autosize=False)  # fmt: skip
    if chromium_path() is not None and find_spec("playwright") is not None:
        # Its own thread: playwright's plain calls refuse a thread with a running event loop.
        return aside(lambda: _drawn(page))
    why = "neither is installed"
    if find_spec("kaleido") is not None:
        try:
            return aside(lambda: page.to_image("png", scale=SCALE))
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            why = f"kaleido failed ({lines[0]})"
    msg = (
        f"cannot draw a PNG: expected playwright with Chromium, or kaleido with Chrome; {why}; "
        "install one, use the camera over the live plot, or write .html"
    )
    raise WorkbenchError(msg)


def _drawn(figure: go.Figure) -> bytes:
    """A picture of it, taken of a blank page that nothing is loaded into but plotly itself."""
    from plotly.offline import get_plotlyjs

    height = int(figure.layout.height or 480)
    with chromium() as browser:
        page = browser.new_page(
            viewport={"width": WIDTH, "height": height}, device_scale_factor=SCALE
        )
        page.set_content('<body style="margin:0"><div id="plot"></div></body>')
        page.add_script_tag(content=get_plotlyjs())
        page.evaluate(
            """async text => {
              const figure = JSON.parse(text);
              await Plotly.newPlot('plot', figure.data, figure.layout, {staticPlot: true});
            }""",
            figure.to_json(),
        )
        picture: bytes = page.locator("#plot").screenshot()
        return picture
