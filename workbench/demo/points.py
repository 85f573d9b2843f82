"""What was measured at each context size, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """Milliseconds at one context size; ``again_ms`` is plain transformers reading it all again."""

    context: int
    ttft_ms: float
    total_ms: float
    flash_ms: float
    again_ms: float

    @property
    def ratio(self) -> float:
        """How many times longer reading it all again takes to the first token."""
        return self.again_ms / self.ttft_ms


def table(points: Sequence[Point]) -> str:
    """The points as text, one line per context size."""
    heads = ("context", "first token", "whole answer", "flash hit", "read again", "ratio")
    units = ("tokens", "ms", "ms", "ms", "ms", "")
    lines = ["", *("".join(f"{word:>14}" for word in words) for words in (heads, units))]
    lines += [
        f"{p.context:>14,}{p.ttft_ms:>14.1f}{p.total_ms:>14.1f}{p.flash_ms:>14.3f}"
        f"{p.again_ms:>14,.1f}{p.ratio:>13.1f}x"
        for p in points
    ]
    lines += [
        "",
        "read again: plain transformers, the same model and tokens, nothing cached, to the first",
        "token; ratio: read again / first token. `python -m workbench.bench latency` also compares",
        "with a transformers cache kept warm by hand, which is the stronger rival.",
    ]
    return "\n".join(lines)


def write_figure(points: Sequence[Point], path: Path) -> None:
    """Latency against context size as an HTML file with everything inside it."""
    import plotly.graph_objects as go

    context = [point.context for point in points]
    curves = {
        "stateless: read it all again, first token": [p.again_ms for p in points],
        "session: whole answer": [p.total_ms for p in points],
        "session: first token": [p.ttft_ms for p in points],
        "flash query: answered beforehand": [p.flash_ms for p in points],
    }
    figure = go.Figure(
        [go.Scatter(x=context, y=y, name=name, mode="lines+markers") for name, y in curves.items()]
    )
    figure.update_layout(
        title="Time to answer as the context grows (embedded model)",
        template="plotly_white",
        legend={"orientation": "h", "y": -0.2},
        hovermode="x unified",
    )
    figure.update_xaxes(title="context, tokens", rangemode="tozero")
    figure.update_yaxes(title="milliseconds (log scale)", type="log", exponentformat="none")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True, full_html=True)
