"""Stateful streaming LLM inference: sessions that data flows into, questions that cost little."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.answer import Answer
    from workbench.audit import Audit
    from workbench.backtest import Backtest
    from workbench.comparison import Diff, diff
    from workbench.errors import WorkbenchError
    from workbench.flash.query import FlashQuery
    from workbench.front import Engine, current_engine
    from workbench.moment import Moment, row, version
    from workbench.session import Session
    from workbench.streams.feed import Feed
    from workbench.tick import Tick

__all__ = [
    "Answer",
    "Audit",
    "Backtest",
    "Diff",
    "Engine",
    "Feed",
    "FlashQuery",
    "Moment",
    "Session",
    "Tick",
    "WorkbenchError",
    "current_engine",
    "dashboard",
    "diff",
    "row",
    "version",
]

__version__ = "0.1.0"


# Imported when first named: what needs no model (the scheduler, simulations) need not load one's
# libraries, and the engine must import without the notebook's.
_HOMES = {
    "Answer": "workbench.answer",
    "Audit": "workbench.audit",
    "Backtest": "workbench.backtest",
    "Diff": "workbench.comparison",
    "Engine": "workbench.front",
    "Feed": "workbench.streams.feed",
    "FlashQuery": "workbench.flash.query",
    "Moment": "workbench.moment",
    "Session": "workbench.session",
    "Tick": "workbench.tick",
    "WorkbenchError": "workbench.errors",
    "current_engine": "workbench.front",
    "dashboard": "workbench.notebook.dashboard",
    "diff": "workbench.comparison",
    "row": "workbench.moment",
    "version": "workbench.moment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'workbench' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext workbench``."""
    from workbench.notebook import magics

    magics.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext workbench``."""
    from workbench.notebook import magics

    magics.unload(ipython)
