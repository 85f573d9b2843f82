"""The workbench inside Jupyter: magics, rich displays, and a live dashboard.

``%load_ext workbench`` registers ``%stateful`` and ``%%stateful`` (`magics`) and the displays
(`display`); ``wb.dashboard()`` shows what the open engine is doing (`dashboard`), and the functions
here show one of its parts alone. Everything here reads an engine through its sessions and its
events, and writes to it only through sessions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.notebook.dashboard import (
        cell_map,
        flash_board,
        latency_plot,
        session_monitor,
        step_timeline,
    )

__all__ = ["cell_map", "flash_board", "latency_plot", "session_monitor", "step_timeline"]


# Imported when first named: the magics need none of the widgets. No module of this package may
# have one of these names, since importing it would take the function's place.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module 'workbench.notebook' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module("workbench.notebook.dashboard"), name)
