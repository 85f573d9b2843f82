"""Plotly figures, and for each the polars frame that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.notebook.cell_panel import cells_frame, line_length
from workbench.notebook.live_figure import live_figure
from workbench.notebook.markup import ALARM, COLOURS, QUIET
from workbench.notebook.points import latency_frame
from workbench.notebook.timeline import PHASES, shares_frame, steps_frame
from workbench.streams.texts import price_text

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

    from workbench.flash.query import FlashQuery

__all__ = [
    "backtest_figure", "cell_map_figure", "cells_frame", "history_figure", "history_frame",
    "latency_figure", "latency_frame", "shares_frame", "step_timeline_figure", "steps_frame",
]  # fmt: skip

# name, kind of the rows, column, colour, marker: told apart by shape as well as by colour; the
# first lies under the others
_TRACES = (
    ("flash, in idle time", "flash", "total_ms", QUIET, "x-thin-open"),
    ("ask, first token", "ask", "ttft_ms", COLOURS[0], "circle"),
    ("ask, whole answer", "ask", "total_ms", COLOURS[1], "circle-open"),
    ("ask with choices", "choice", "total_ms", COLOURS[3], "square"),
    ("ask, served by flash", "flash hit", "total_ms", COLOURS[2], "diamond"),
    ("stateless, re-reads all", "stateless", "total_ms", "#cf4436", "triangle-up"),
)
# columns that a frame may have besides, and the trace that shows them
_PEERS = {"stateless_ms": "stateless, re-reads all", "warm_cache_ms": "a cache kept warm by hand"}
FLOOR = "floor, one forward"
FLOOR_POINTS = 48
PLOT_HEIGHT = 330
_PHASE_COLOURS = dict(zip(PHASES, (COLOURS[1], COLOURS[3], COLOURS[0], COLOURS[2], COLOURS[4]),
                          strict=True))  # fmt: skip

# of runs that are no session's alone
_CELL_MARKERS: dict[str, dict[str, Any]] = {
    "shared": {
        "color": "#2a4a63",
        "pattern": {"shape": "x", "size": 5, "fgcolor": "rgba(255,255,255,.5)"},
    },
    "prompt": {"color": QUIET}, "question": {"color": "#24292f"}, "flash": {"color": "#5b636d"},
    "free": {"color": "rgba(127,134,142,.15)"},
}  # fmt: skip


def latency_figure(
    frame: pl.DataFrame, *, log: bool = True, height: int = PLOT_HEIGHT
) -> go.Figure:
    """Milliseconds to answer against tokens of context; ``log`` scales the milliseconds.

    Args:
        frame: what `latency_frame` gave; columns ``stateless_ms`` and ``warm_cache_ms`` are drawn
            beside it if it has them, ``floor_ms`` as a line.
    """
    import plotly.graph_objects as go

    return go.Figure(latency_traces(frame), _latency_layout(log, height))


def live_latency_figure(frame: pl.DataFrame, *, log: bool = True) -> go.FigureWidget:
    """The same as a widget, whose points `redraw_latency` replaces.

    The camera in its bar makes a PNG in the browser.
    """
    figure = live_figure()(latency_traces(frame, live=True), _latency_layout(log, PLOT_HEIGHT))
    figure._config = {
        "responsive": True, "displaylogo": False, "displayModeBar": "hover",
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "png", "filename": "latency", "scale": 2},
    }  # fmt: skip
    return figure


def redraw_latency(figure: go.FigureWidget, frame: pl.DataFrame) -> None:
    """Put these points into a live figure, in one message."""
    traces = latency_traces(frame, live=True)
    with figure.batch_update():
        for shown, new in zip(figure.data, traces, strict=True):
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

    chances = [name for name in frame.columns if _is_chance(frame, name)] or ["confidence"]
    traces = [_chances(frame, name, index) for index, name in enumerate(chances)]
    layout = _layout(height, "rows of data", "probability")
    layout["yaxis"]["range"] = [-0.03, 1.03]
    return go.Figure(traces, layout)


def backtest_figure(frame: pl.DataFrame, *, height: int = 280) -> go.Figure:
    """A back-test's answers against the rows they were asked as of: each choice's probability.

    With a column ``truth`` (joined on ``row``), a line of marks above says where the answer was
    right; rows whose truth is null are neither. Numbers are compared as rows print them, to five
    digits, and true and false in whatever case; any other truth is the answer's own text.

    Args:
        frame: a `Backtest`'s ``frame``.
    """
    import plotly.graph_objects as go
    import polars as pl

    figure = history_figure(frame, height=height)
    if "truth" not in frame.columns:
        return figure
    told = frame.drop_nulls("truth")
    right = pl.Series(map(_is_right, told["text"], told["truth"]), dtype=pl.Boolean)
    top = 1.12
    for name, rows, colour, symbol in (
        ("right", told.filter(right), COLOURS[2], "circle"),
        ("wrong", told.filter(~right), ALARM, "x"),
    ):
        figure.add_trace(
            go.Scatter(
                x=rows["row"].to_numpy(), y=[top] * rows.height, mode="markers",
                name=f"{name}, {rows.height:,} of {told.height:,}", text=_judged(rows),
                hovertemplate="row %{x}: %{text}<extra></extra>",
                marker={"color": colour, "symbol": symbol, "size": 6},
            )
        )  # fmt: skip
    figure.update_yaxes(range=[-0.03, top + 0.06], tickvals=[0, 0.25, 0.5, 0.75, 1])
    return figure


def _is_chance(frame: pl.DataFrame, name: str) -> bool:
    """Whether a column is a choice's probability; one that was joined may begin like it."""
    if not (name.startswith("p_") and frame[name].dtype.is_numeric()):
        return False
    return bool(frame[name].drop_nulls().is_between(0, 1).all())


def _is_right(text: str, truth: Any) -> bool:
    text = text.strip()
    if isinstance(truth, bool):
        return text.lower() == str(truth).lower()
    if isinstance(truth, int | float | Decimal):
        try:
            return price_text(float(text)) == price_text(float(truth))
        except ValueError:
            return False
    return text == str(truth)


def cell_map_figure(frame: pl.DataFrame, *, height: int | None = None) -> go.Figure:
    """The pool as lines of cells: who holds which, what is shared, reserved and free.

    Args:
        frame: what `cells_frame` gave.
    """
    import plotly.graph_objects as go

    num_cells = int(frame["length"].sum())
    line = line_length(num_cells) if num_cells else 1
    bars: dict[_Look, list[tuple[int, int, int, str]]] = {}
    for row in frame.iter_rows(named=True):
        words = f"{_cells(row)}<br>{', '.join(row['holders']) or 'free'}"
        start, end = row["start"], row["start"] + row["length"]
        for number in range(start // line, -(-end // line)):
            first, last = max(start, number * line), min(end, (number + 1) * line)
            entry = (number * line, first - number * line, last - first, words)
            bars.setdefault(_look(row), []).append(entry)
    owners = list(dict.fromkeys(name for row in frame["holders"] for name in row))
    looks = sorted(bars, key=lambda look: (not look.owner, look.is_reserved))
    traces = [
        {
            "type": "bar", "orientation": "h", "name": look.name, "width": line * 0.8,
            "y": [bar[0] for bar in bars[look]], "base": [bar[1] for bar in bars[look]],
            "x": [bar[2] for bar in bars[look]], "customdata": [bar[3] for bar in bars[look]],
            "hovertemplate": "%{customdata}<extra></extra>",
            "marker": _cell_marker(look, owners),
        }
        for look in looks
    ]  # fmt: skip
    lines = max(1, -(-num_cells // line))
    layout = _layout(height or 110 + 26 * lines, "cells of a line", "first cell of the line")
    layout["xaxis"] |= {"range": [0, line], "tickformat": ","}
    starts = [number * line for number in range(lines)]
    layout["yaxis"] |= {
        "autorange": "reversed", "tickvals": starts, "tickformat": ",", "showgrid": False,
    }  # fmt: skip
    return go.Figure(traces, layout | {"barmode": "overlay"})


def step_timeline_figure(frame: pl.DataFrame, *, height: int = 260) -> go.Figure:
    """Steps against time, a row per phase; how high a bar is says its share of the step's tokens.

    Args:
        frame: what `steps_frame` gave.
    """
    import plotly.graph_objects as go
    import polars as pl

    traces: list[dict[str, Any]] = []
    began = frame["began"].dt.epoch("us").to_numpy() / 1e3
    frame = frame.with_columns(
        at=pl.Series(began - (began[0] if frame.height else 0.0), dtype=pl.Float64),
        tokens=pl.sum_horizontal(PHASES),
    )
    for row, phase in enumerate(PHASES):
        steps = frame.filter(pl.col(phase) > 0)
        share = (steps[phase] / steps["tokens"]).to_numpy()
        traces.append(
            {
                "type": "bar", "orientation": "h", "name": phase, "y": [row] * steps.height,
                "base": steps["at"].to_numpy() / 1e3,
                "x": steps["duration_ms"].to_numpy() / 1e3, "width": 0.3 + 0.6 * share,
                "customdata": steps.select("step", phase, "tokens", "duration_ms").to_numpy(),
                "hovertemplate": "step %{customdata[0]:,}: %{customdata[1]:,} of "
                "%{customdata[2]:,} tokens, %{customdata[3]:.1f} ms",
                "marker": {"color": _PHASE_COLOURS[phase], "line": {"width": 0}},
            }
        )  # fmt: skip
    ends = (frame["at"] + frame["duration_ms"]).to_list()
    gaps = [(end, begin) for end, begin in zip(ends, frame["at"][1:], strict=False) if begin > end]
    traces.append(
        {
            "type": "bar", "orientation": "h", "name": "idle", "y": [len(PHASES)] * len(gaps),
            "base": [end / 1e3 for end, _ in gaps], "width": 0.3,
            "x": [(begin - end) / 1e3 for end, begin in gaps], "hovertemplate": "idle %{x:.3f} s",
            "marker": {"color": QUIET, "opacity": 0.5},
        }
    )  # fmt: skip
    layout = _layout(height, "seconds since the first step", "")
    layout["yaxis"] |= {
        "tickvals": list(range(len(PHASES) + 1)), "ticktext": [*PHASES, "idle"],
        "range": [len(PHASES) + 0.6, -0.6],
    }  # fmt: skip
    layout["margin"]["t"] = 12
    return go.Figure(traces, layout | {"barmode": "overlay", "showlegend": False})


def latency_traces(frame: pl.DataFrame, *, live: bool = False) -> list[dict[str, Any]]:
    """What a plot of these points consists of; ``live`` has every trace, the empty ones too."""
    import polars as pl

    drawn: dict[str, list[pl.DataFrame]] = {}
    for name, kind, column, _, _ in _TRACES:
        points = frame.filter(pl.col("kind") == kind)
        drawn[name] = [points.select("context", ms=column)]
    for column, name in _PEERS.items():
        if column in frame.columns:
            peers = frame.drop_nulls(column).select("context", ms=column)
            drawn.setdefault(name, []).append(peers)
    looks = {name: (colour, symbol) for name, _, _, colour, symbol in _TRACES}
    traces = []
    for name, parts in drawn.items():
        points = pl.concat(parts)
        traces.append(_trace(name, points, *looks.get(name, (COLOURS[4], "triangle-down"))))
    floor = _floor(frame)
    if live or floor.height:
        traces.append(_floor_trace(floor))
    return traces


def _floor(frame: pl.DataFrame) -> pl.DataFrame:
    """The floor's line over the contexts of the frame."""
    import polars as pl

    if "floor_ms" not in frame.columns:
        return pl.DataFrame(schema={"context": pl.Int64, "ms": pl.Float64})
    line = frame.drop_nulls("floor_ms").select("context", ms="floor_ms")
    line = line.unique("context").sort("context")
    step = max(1, -(-line.height // FLOOR_POINTS))
    return pl.concat([line.gather_every(step), line.tail(1)]).unique("context").sort("context")


def _floor_trace(line: pl.DataFrame) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": FLOOR,
        "x": line["context"].cast(int).to_numpy().astype("int32"), "y": line["ms"].to_numpy(),
        "line": {"color": QUIET, "width": 1.6, "dash": "dot"},
        "hovertemplate": "%{x:,} tokens: at least %{y:.3g} ms", "legendrank": 1002,
    }  # fmt: skip


def _trace(name: str, points: pl.DataFrame, colour: str, symbol: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1.6}
    return {
        "type": "scatter", "mode": "markers", "name": name,
        # int64 would go to the browser as text
        "x": points["context"].to_numpy().astype("int32"), "y": points["ms"].to_numpy(),
        "marker": {"color": colour, "symbol": symbol, "size": 7, "opacity": 0.85, "line": line},
        "hovertemplate": "%{x:,} tokens: %{y:.3g} ms",
        "legendrank": 1001 if colour == QUIET else 1000,
    }  # fmt: skip


def _chances(frame: pl.DataFrame, name: str, index: int) -> dict[str, Any]:
    """One choice's probability, or the confidence, as steps."""
    return {
        "type": "scatter", "mode": "lines+markers", "name": name.removeprefix("p_"),
        "x": frame["row"].to_numpy(), "y": frame[name].to_numpy(),
        "text": frame["text"].to_list(), "hovertemplate": "row %{x}: %{text} (%{y:.2f})",
        "line": {"color": COLOURS[index % len(COLOURS)], "shape": "hv", "width": 2,
                 "dash": ("solid", "dot", "dash")[index % 3]},
        "marker": {"size": 5, "symbol": ("circle", "diamond", "square")[index % 3]},
    }  # fmt: skip


def _judged(rows: pl.DataFrame) -> list[str]:
    pairs = zip(rows["text"], rows["truth"], strict=True)
    return [f"said {text}, was {truth}" for text, truth in pairs]


def _cells(row: dict[str, Any]) -> str:
    return f"{row['kind']}: cells {row['start']:,} to {row['start'] + row['length'] - 1:,}"


class _Look(NamedTuple):
    """How a run of cells is drawn: one entry of the legend. Only sessions' runs have an owner."""

    owner: str
    kind: str
    is_reserved: bool = False

    @property
    def name(self) -> str:
        words = (self.owner, "" if self.kind == "session" else self.kind)
        reserved = "reserved" if self.is_reserved else ""
        return ", ".join(word for word in (*words, reserved) if word)


def _look(row: dict[str, Any]) -> _Look:
    kind = row["kind"]
    if kind in _CELL_MARKERS:
        return _Look("", kind)
    if len(row["holders"]) > 1:
        return _Look("", "shared")
    return _Look(row["holders"][0], kind, row["state"] == "reserved")


def _cell_marker(look: _Look, owners: Sequence[str]) -> dict[str, Any]:
    """How a run is filled; reserved cells are as light as they are in the live map."""
    if not look.owner:
        return _CELL_MARKERS[look.kind] | {"line": {"width": 0}}
    place = owners.index(look.owner)
    colour = COLOURS[place % len(COLOURS)]
    if look.is_reserved:
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        colour = f"rgba({red},{green},{blue},.28)"
    shape = ("", ".", "|", "-")[place // len(COLOURS) % 4] if look.kind == "session" else "/"
    return {
        "color": colour, "line": {"width": 0},
        "pattern": {"shape": shape, "size": 5, "fgcolor": "rgba(255,255,255,.6)"},
    }  # fmt: skip


def _latency_layout(log: bool, height: int) -> dict[str, Any]:
    layout = _layout(height, "tokens of context", "milliseconds")
    layout["xaxis"] |= {"rangemode": "tozero", "tickformat": ","}
    layout["yaxis"] |= latency_axis(log)
    return layout


def latency_axis(log: bool) -> dict[str, Any]:
    """The axis of milliseconds."""
    if log:
        return {"type": "log", "rangemode": "normal", "tickformat": ",~g"}
    return {"type": "linear", "rangemode": "tozero", "tickformat": ",~g"}


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
