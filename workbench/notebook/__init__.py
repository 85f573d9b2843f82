"""The workbench inside Jupyter: magics, rich displays, and a live dashboard.

``%load_ext workbench`` registers ``%stateful`` and ``%%stateful`` (`magics`) and the displays
(`display`); ``wb.dashboard()`` shows what the open engine is doing (`dashboard`). Everything here
reads an engine through its sessions and its events, and writes to it only through sessions.
"""

from __future__ import annotations

from typing import Any

__all__ = ["dashboard", "flash_board", "latency_plot"]


def flash_board(engine: Any = None) -> Any:
    """Only the live flash board of an engine (the open one if None); see `dashboard.Dashboard`."""
    from workbench.notebook.dashboard import flash_board

    return flash_board(engine)


def latency_plot(engine: Any = None) -> Any:
    """Only the live plot of latency against context; see `dashboard.Dashboard`."""
    from workbench.notebook.dashboard import latency_plot

    return latency_plot(engine)
