"""A widget that is drawn in the browser from one synced value, and hands back what was clicked."""

from __future__ import annotations

import math
import queue
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

SHOWN = 60  # lines of a table; more would only be scrolled past

_STATIC = files("workbench.notebook") / "static"


def static(name: str) -> str:
    """The text of a file under ``static/``."""
    return (_STATIC / name).read_text(encoding="utf-8")


def script(name: str) -> str:
    """A panel's script, with the helpers of ``shared.js`` in front of it."""
    return static("shared.js") + static(name)


def shown_ms(ms: float) -> float | None:
    """Milliseconds in a state: JSON has no nan, and digits that nobody sees are not sent."""
    return None if math.isnan(ms) else round(ms, 2 if ms < 1 else 1 if ms < 100 else 0)


class Panel(anywidget.AnyWidget):
    """A widget whose picture is `state`. A part of a dashboard has one.

    A subclass names its script: ``_esm = script("cell_map.js")``. Its ``render({model, el})`` draws
    ``model.get("state")`` now and on every change (``follow`` in ``shared.js``), and sends what was
    clicked with ``model.send({action: "pause", id: 3})``. The state is all that a page has after a
    reload, so it is complete; its values are JSON's (None, not nan). The dashboard brings
    ``workbench.css``.

    Attributes:
        state: what to draw.
        over: the engine was closed, and this is the last picture: nothing can be clicked.
    """

    _esm = "export default { render() {} };"
    state = traitlets.Dict().tag(sync=True)
    over = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **options: Any) -> None:
        """Empty at first; the browser may send from now on."""
        self._asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        wide = {"width": "100%", "margin": "0", "min_width": "0"}
        super().__init__(**({"layout": wide} | options))
        self.on_msg(self._put)

    def open(self) -> None:
        """Make it known to the browser; ipywidgets calls it."""
        super().open()
        # ipykernel 7.4 hands a click to the subshell that was last heard of, rather than to the one
        # it came by: held up by a cell that runs, and lost after a reload of the page. Here a click
        # is only put on a queue, which any thread may do, so it goes the way it came.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda _data, subshell: subshell

    def show(self, state: dict[str, Any]) -> None:
        """Draw this; an equal state is not sent again."""
        if state != self.state:
            self.state = state

    def actions(self) -> list[dict[str, Any]]:
        """What the browser sent since the last call, the oldest first. From any thread."""
        asked = []
        while True:
            try:
                asked.append(self._asked.get_nowait())
            except queue.Empty:
                return asked

    def _put(self, _widget: Any, content: Any, _buffers: Any) -> None:
        # It runs in whichever thread the kernel likes: the pump does what it says.
        if isinstance(content, dict) and isinstance(content.get("action"), str):
            self._asked.put(content)
