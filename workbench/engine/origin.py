"""Where a fork begins: what another session could see at one moment, to go on from there."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.cells.history import History, Place
from workbench.cells.window import WindowRows
from workbench.engine.work import Ingest, Mark
from workbench.errors import WorkbenchError
from workbench.moment import Moment


@dataclass(frozen=True)
class Origin:
    """A session as of a moment, as integers: no cells are held.

    Attributes:
        token_ids: what was visible, oldest first.
        head: how many of them come before any row: as they were read, whatever a chat template
            that tells the date would say today.
        now: that moment; a tick that was half in is a version of its own.
        history: where the rows and versions until then ended.
        rows: where the rows of its window begin.
        slack, tick: of its window, as `Window` has them; no slack is that of a new one.
    """

    token_ids: list[int]
    head: int
    now: Mark
    history: History
    rows: WindowRows
    slack: int | None = None
    tick: float = 0.0

    @classmethod
    def empty(cls, head: list[int]) -> Origin:
        """A session of which nothing but the tokens before any row is there."""
        now = Mark(0, len(head), 0)
        return cls(head, len(head), now, History(len(head)), WindowRows(len(head)))

    @classmethod
    def of(cls, session: Ingest, moment: Moment | None) -> Origin:
        """``session`` as of a moment; None is the present.

        Raises:
            QuestionError: the moment has not come or has left the window. WorkbenchError: its keys
            remember rows that have left, which nobody can compute again.
        """
        window = session.window
        if window is not None and window.overflow == "evict" and window.rows.left:
            msg = (
                f"session {session.name!r}: rows have left its window, and overflow='evict' keeps "
                "keys that remember them: neither a fork nor a file can have it; use 'rebuild'"
            )
            raise WorkbenchError(msg)
        mark = session.as_of(moment)
        left = window.rows.left if window is not None else 0
        end = Place(mark.position + left, mark.version, mark.rows)
        history = session.history.until(end)
        ids = list(session.line.token_ids[: mark.position])
        now = mark._replace(version=history.version)
        if window is None:
            return cls(ids, session.head, now, history, WindowRows(0))
        rows = window.rows.until(end.place, end.rows)
        return cls(ids, session.head, now, history, rows, window.slack, window.tick)
