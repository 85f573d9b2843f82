"""A plotly figure that may be shown in several places, each of which may go.

A view of plotly's widget goes on hearing of updates when its output is cleared (seen in plotly 7.1:
its listeners are the model's, which nobody takes off with the view). Drawing one then fails, an
error in the console, and the views that heard of it after this one are not drawn again. Here a view
that is gone hears nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

_EXPORTED = re.compile(r"export\s*\{[^}]*?\b([\w$]+) as FigureView\b")
_QUIET = """
;{
  const view = %s.prototype, remove = view.remove;
  for (const name of Object.getOwnPropertyNames(view)) {
    const did = view[name];
    if (!/^(do|_send)_?[A-Za-z]/.test(name) || typeof did !== "function") continue;
    view[name] = function (...given) { return this.gone ? undefined : did.apply(this, given); };
  }
  view.remove = function (...given) { this.gone = true; return remove.apply(this, given); };
}
"""


@lru_cache(maxsize=1)
def live_figure() -> type[go.FigureWidget]:
    """The class: plotly's own, with that mended; plotly's own where its script is another one."""
    import plotly.graph_objects as go

    text = str(go.FigureWidget._esm)
    exported = _EXPORTED.search(text)
    if exported is None:
        return go.FigureWidget
    view = exported[1]

    class LiveFigure(go.FigureWidget):  # type: ignore[misc]
        _esm = text + _QUIET % view

    return LiveFigure
