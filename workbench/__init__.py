"""Stateful streaming LLM inference: sessions that data flows into, questions that cost little."""

from typing import Any

from workbench.answer import Answer
from workbench.errors import WorkbenchError
from workbench.flash.query import FlashQuery
from workbench.front import Engine, current_engine
from workbench.session import Session
from workbench.streams.feed import Feed
from workbench.tick import Tick

__all__ = [
    "Answer",
    "Engine",
    "Feed",
    "FlashQuery",
    "Session",
    "Tick",
    "WorkbenchError",
    "current_engine",
    "dashboard",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The notebook layer needs ipywidgets and plotly; the engine must import without them.
    if name == "dashboard":
        from workbench.notebook.dashboard import dashboard

        return dashboard
    msg = f"module 'workbench' has no attribute {name!r}"
    raise AttributeError(msg)


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext workbench``."""
    from workbench.notebook import magics

    magics.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext workbench``."""
    from workbench.notebook import magics

    magics.unload(ipython)
