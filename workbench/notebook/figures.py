"""Plotly figures, and for each the polars frame that it draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workbench.answer import Answer
from workbench.events import Answered, FlashAnswered
from workbench.notebook.markup import COLOURS, QUIET
from workbench.notebook.view_model import Point

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

    from workbench.flash.query import FlashQuery

# name, kind of the rows, column, colour, marker: told apart by shape as well as by colour; the
# first lies under the others
_TRACES = (
    ("flash, in idle time", "flash", "total_ms", QUIET, "x-thin-open"),
    ("ask, first token", "ask", "ttft_ms", COLOURS[0], "circle"),
    ("ask, whole answer", "ask", "total_ms", COLOURS[1], "circle-open"),
    ("ask with choices", "choice", "total_ms", COLOURS[3], "square"),
    ("ask, served by flash", "flash hit", "total_ms", COLOURS[2], "diamond"),
)
STATELESS = ("stateless, re-reads all", "stateless_ms", "#cf4436", "triangle-up")
PLOT_HEIGHT = 330


def latency_frame(answers: Iterable[Answer | Answered | FlashAnswered | Point]) -> pl.DataFrame:
    """One row per answer: ``time session kind context ttft_ms total_ms``.

    ``kind`` is "ask", "choice" (an ask with choices, scored in one forward), "flash hit" (an ask
    that a flash query had answered already) or "flash" (an evaluation in the background);
    ``context`` counts tokens. Add a column ``stateless_ms`` to have `latency_figure` draw what
    re-reading the same context took.

    Args:
        answers: complete answers, events of answers, or a `Watch`'s points.
    """
    import polars as pl

    schema = {
        "time": pl.Float64, "session": pl.String, "kind": pl.String, "context": pl.Int64,
        "ttft_ms": pl.Float64, "total_ms": pl.Float64,
    }  # fmt: skip
    points = [answer if isinstance(answer, Point) else _point(answer) for answer in answers]
    columns = {name: [getattr(point, name) for point in points] for name in schema}
    frame = pl.DataFrame(columns, schema=schema)
    return frame.with_columns(pl.from_epoch((pl.col("time") * 1e6).cast(pl.Int64), time_unit="us"))


def latency_figure(
    frame: pl.DataFrame, *, log: bool = True, height: int = PLOT_HEIGHT
) -> go.Figure:
    """Milliseconds to answer against tokens of context; ``log`` scales the milliseconds.

    Args:
        frame: what `latency_frame` gave, with or without a column ``stateless_ms``.
    """
    import plotly.graph_objects as go

    return go.Figure(_latency_traces(frame), _latency_layout(log, height))


def live_latency_figure(frame: pl.DataFrame, *, log: bool = True) -> go.FigureWidget:
    """The same as a widget, whose points `redraw_latency` replaces."""
    import plotly.graph_objects as go

    figure = go.FigureWidget(_latency_traces(frame), _latency_layout(log, PLOT_HEIGHT))
    figure._config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return figure


def redraw_latency(figure: go.FigureWidget, frame: pl.DataFrame) -> None:
    """Put these points into a live figure, in one message per trace."""
    traces = _latency_traces(frame)
    with figure.batch_update():
        for shown, new in zip(figure.data, traces, strict=False):
            shown.x, shown.y = new["x"], new["y"]


def history_frame(query: FlashQuery) -> pl.DataFrame:
    """The answers of a flash query, oldest first: `FlashQuery.history`."""
    return query.history


def history_figure(frame: pl.DataFrame, *, height: int = 280) -> go.Figure:
    """A flash query's past answers against rows of data: each choice's probability.

    An open question has no choices; then the confidence is drawn, with the answers to hover on.

    Args:
        frame: what `history_frame` gave.
    """
    import plotly.graph_objects as go

    chances = [name for name in frame.columns if name.startswith("p_")] or ["confidence"]
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": name.removeprefix("p_"),
            "x": frame["row"].to_numpy(), "y": frame[name].to_numpy(),
            "text": frame["text"].to_list(), "hovertemplate": "row %{x}: %{text} (%{y:.2f})",
            "line": {"color": COLOURS[index % len(COLOURS)], "shape": "hv", "width": 2,
                     "dash": ("solid", "dot", "dash")[index % 3]},
            "marker": {"size": 5, "symbol": ("circle", "diamond", "square")[index % 3]},
        }
        for index, name in enumerate(chances)
    ]  # fmt: skip
    layout = _layout(height, "rows of data", "probability")
    layout["yaxis"]["range"] = [-0.03, 1.03]
    return go.Figure(traces, layout)


def _point(answer: Answer | Answered | FlashAnswered) -> Point:
    if isinstance(answer, FlashAnswered):
        session, kind, ttft = answer.session or "", "flash", math.nan
    else:
        name = answer.session_name if isinstance(answer, Answer) else answer.session
        closed = answer.choices if isinstance(answer, Answered) else answer.choice is not None
        session = name or ""
        kind = "flash hit" if answer.from_flash else "choice" if closed else "ask"
        ttft = answer.ttft_ms
    return Point(answer.time, session, kind, answer.position, ttft, answer.total_ms)


def _latency_traces(frame: pl.DataFrame) -> list[dict[str, Any]]:
    import polars as pl

    traces = []
    for name, kind, column, colour, symbol in _TRACES:
        points = frame.filter(pl.col("kind") == kind)
        traces.append(_trace(name, points["context"], points[column], colour, symbol))
    name, column, colour, symbol = STATELESS
    if column in frame.columns:
        points = frame.drop_nulls(column)
        traces.append(_trace(name, points["context"], points[column], colour, symbol))
    return traces


def _trace(name: str, x: pl.Series, y: pl.Series, colour: str, symbol: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1.6}
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": x.to_numpy(), "y": y.to_numpy(),
        "marker": {"color": colour, "symbol": symbol, "size": 7, "opacity": 0.85, "line": line},
        "hovertemplate": "%{x:,} tokens: %{y:.3g} ms",
        "legendrank": 1001 if colour == QUIET else 1000,
    }  # fmt: skip


def _latency_layout(log: bool, height: int) -> dict[str, Any]:
    layout = _layout(height, "tokens of context", "milliseconds")
    layout["xaxis"] |= {"rangemode": "tozero", "tickformat": ","}
    layout["yaxis"] |= latency_axis(log)
    return layout


def latency_axis(log: bool) -> dict[str, Any]:
    """The axis of milliseconds."""
    if log:
        return {"type": "log", "rangemode": "normal", "tickformat": "~g"}
    return {"type": "linear", "rangemode": "tozero", "tickformat": "~g"}


def _layout(height: int, x: str, y: str) -> dict[str, Any]:
    # No background, and greys that read on white and on black: the page's theme shines through.
    axis = {
        "gridcolor": "rgba(127,134,142,.22)", "linecolor": "rgba(127,134,142,.6)",
        "zeroline": False, "ticks": "outside", "tickcolor": "rgba(127,134,142,.6)",
        "automargin": True,
    }  # fmt: skip
    return {
        "height": height, "autosize": True, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": QUIET, "size": 12},
        "margin": {"l": 56, "r": 16, "t": 36, "b": 44},
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "hovermode": "closest", "showlegend": True,
    }  # fmt: skip
