"""The error tree. Every message says what was expected, what came, and what to do about it."""

from __future__ import annotations

import sys
from types import TracebackType


class WorkbenchError(Exception):
    """A mistake or a limit that the caller can do something about; bugs are never one of these.

    IPython shows it as one line (through ``_render_traceback_``), since the message is the help.
    """

    def _render_traceback_(
        self,
        etype: type[BaseException] | None = None,
        value: BaseException | None = None,
        tb: TracebackType | None = None,
        tb_offset: int | None = None,
    ) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ModelError(WorkbenchError):
    """A model folder or id cannot be loaded, or is not a decoder this engine can hold."""


class UnsupportedModel(ModelError):
    """The model uses a feature that the engine cannot compute exactly; the message names it."""


class CellsExhausted(WorkbenchError):
    """More cells are wanted than are free, or than the session's budget has left."""


class SessionNotFound(WorkbenchError):
    """No open session has this name."""


class SessionExists(WorkbenchError):
    """A session of this name is already open."""


class SessionClosed(WorkbenchError):
    """The session was closed; its cells are gone and it takes no more work."""


class SessionFaulted(WorkbenchError):
    """Ingestion failed; nothing queued was lost, and ``session.retry()`` goes on from there."""


class EngineClosed(WorkbenchError):
    """The engine was shut down; work that was still queued ends with this error."""


class QueueFull(WorkbenchError):
    """The session's queue has no room for these rows and it was opened with ``on_full='raise'``."""


class TickDropped(WorkbenchError):
    """These rows were dropped from the queue of a session opened with ``on_full='drop_oldest'``."""


class RowError(WorkbenchError):
    """A row does not fit the session's schema: unknown or missing columns, NaN, a wrong type."""


class QuestionError(WorkbenchError):
    """A question or its options cannot be asked as given."""


class Cancelled(WorkbenchError):
    """It was cancelled before it was complete: an answer, of which ``text`` keeps what had arrived,
    or rows that were taken back."""


class OptionsError(WorkbenchError):
    """A line of ``%stateful`` cannot be understood."""


def warn(message: str) -> None:
    """Tell the user about a fault in their own callback, without stopping anything."""
    sys.stderr.write(f"workbench: {message}\n")
