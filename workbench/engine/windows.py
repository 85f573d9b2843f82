"""What a session does when it is full: rebuild its window elsewhere, or let its oldest rows go."""

from __future__ import annotations

from collections.abc import Callable

from workbench.cells.line import Line
from workbench.engine.core import Core
from workbench.engine.work import Ingest, Rebuild, Retired, Window
from workbench.events import Behind, Rebuilt, RowsLeft
from workbench.scheduler.scheduler import Kind


class Windows:
    """Moves windows between steps; no question ever waits for one.

    ``after_move`` is called with a session whose window has left rows behind: what was answered
    over them is not of its present any more.

    ``rebuild``: the budget is two halves. When one is nearly full, the latest rows are computed
    again in the other, after the same head, in idle time; rows that arrive meanwhile go to both.
    Once the new half has caught up it takes the old one's place: from then on every answer has
    exact full attention over exactly the new window.

    ``evict``: the oldest rows' cells are taken for new rows. Later keys keep their positions, and
    they were computed while the old rows were there, so answers are approximate.

    Cells that a window has left stay until the questions that began on them have ended.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.after_move: list[Callable[[Ingest], None]] = []

    def settle(self, session: Ingest) -> None:
        """Do what is due for a session's window, before a step is planned."""
        window = session.window
        assert window is not None
        self._free(session, window)
        if not session.resident or session.leaving or session.error is not None:
            return
        if window.overflow == "evict":
            self._evict(session, window)
        elif window.rebuild is not None and window.rebuild.line.pending == 0:
            self._swap(session, window, window.rebuild)
        elif window.rebuild is None and self._due(session, window):
            self._begin(session, window)
        stalled = bool(session.ticks.tokens) and self.room(session) == 0
        if stalled and not window.stalled:
            self.core.events.emit(Behind(session=session.name, pending_rows=session.ticks.rows))
        window.stalled = stalled
        for retired in window.retired if stalled else ():
            for work in retired.readers & session.questions.keys():
                self.core.scheduler.hurry(work)  # it is their cells that ingestion waits for

    def room(self, session: Ingest) -> int:
        """Tokens that still fit into the session's line as it is."""
        return session.line.sequence.capacity - session.line.sequence.length

    # Rebuild.

    def _due(self, session: Ingest, window: Window) -> bool:
        line, rows = session.line, window.rows
        # Two of the latest ticks: one may come while the rebuild is on its way.
        slack = min(max(window.slack, 2 * window.tick), (session.capacity - window.keep) // 2)
        if session.ticks.tokens > slack:
            # It is behind: its rows wait anyway, and the fewest rebuilds make it catch up soonest.
            slack = 0
        if window.retired or line.pending or self.room(session) > slack:
            return False
        gained = self._start(session, window) - rows.left - rows.head
        # A rebuild that frees little is worth its cost only if nothing can go on without it.
        return gained > 0 and (gained >= session.capacity // 8 or self.room(session) == 0)

    def _start(self, session: Ingest, window: Window) -> int:
        """Where the first row of the next window begins: it keeps what it was asked to, less
        where the tick that is being read would not fit in beside that."""
        room = session.capacity - window.rows.head
        kept = min(window.keep - window.rows.head, room - session.ticks.first_tokens)
        return window.rows.first_of_last(max(0, kept))

    def _begin(self, session: Ingest, window: Window) -> None:
        old, rows = session.line, window.rows
        start = self._start(session, window)
        sequence = old.sequence.branch(rows.head)
        self.core.reclaim(session.capacity - rows.head)
        sequence.grow(session.capacity - rows.head)
        log = old.token_ids
        line = Line(sequence, log[: rows.head] + log[rows.index(start) :])
        began = old.computed + rows.left
        rebuild = Rebuild(self.core.next_id(), session, line, start, began)
        window.rebuild = self.core.works[rebuild.work] = rebuild
        self.core.prefixes.add(line)
        self.core.scheduler.add(rebuild.work, Kind.INGEST, context=rows.head)

    def _swap(self, session: Ingest, window: Window, rebuild: Rebuild) -> None:
        old = session.line
        gone = window.rows.leave(rebuild.start)
        session.history.leave(rebuild.start)
        session.line = rebuild.line
        session.now = session.now._replace(position=session.now.position - gone)
        self.core.prefixes.remove(old)
        window.retired.append(Retired(old.sequence, session.begun()))
        self._forget(window, rebuild)
        self.core.scheduler.set_context(session.work, session.line.computed)
        self._free(session, window)
        # Next time, begin early enough for twice the rows that came while this one was made.
        arrived = session.line.computed + window.rows.left - rebuild.began
        most = (session.capacity - window.keep) // 2
        window.slack = max(min(2 * arrived, most), session.capacity // 16)
        self.core.events.emit(
            Rebuilt(session=session.name, tokens=session.line.computed, rows=len(window.rows),
                    dropped_tokens=gone)
        )  # fmt: skip
        self._moved(session)

    def abandon(self, session: Ingest) -> None:
        """Give up a rebuild under way, and the cells that nobody reads any more."""
        if session.window is None:
            return
        if (rebuild := session.window.rebuild) is not None:
            self._forget(session.window, rebuild)
            self.core.prefixes.remove(rebuild.line)
            rebuild.line.sequence.drop()
        session.window.stalled = False
        self._free(session, session.window)

    def _forget(self, window: Window, rebuild: Rebuild) -> None:
        window.rebuild = None
        self.core.works.pop(rebuild.work)
        self.core.scheduler.remove(rebuild.work)

    # Evict.

    def _evict(self, session: Ingest, window: Window) -> None:
        line, rows = session.line, window.rows
        if line.pending:
            return
        self._grow(session, window)
        stretch = max(1, session.budget // 8)
        # However much is queued, rows leave a stretch at a time, and only when they have to.
        if self.room(session) >= min(stretch, session.ticks.tokens):
            return
        moved: RowsLeft | None = None
        if rows.num_tokens and not window.retired:
            place = rows.first_after(min(stretch, rows.num_tokens))
            at = rows.head + line.sequence.gap
            self.core.prefixes.remove(line)
            line.digests.clear()
            num_rows, gone = len(rows), rows.leave(place)
            session.history.leave(place)
            cut = line.sequence.cut(at, at + gone)
            window.retired.append(Retired(cut, session.begun()))
            # A new log: answers given so far keep the one they were computed over.
            line.token_ids = line.token_ids[: rows.head] + line.token_ids[rows.head + gone :]
            self._free(session, window)
            self._grow(session, window)
            moved = RowsLeft(session=session.name, rows=num_rows - len(rows), tokens=gone)
        self.core.scheduler.set_context(session.work, line.computed)
        if moved is not None:  # all is in order before anybody is told: they may close it
            self.core.events.emit(moved)
            self._moved(session)

    def _grow(self, session: Ingest, window: Window) -> None:
        """Take what its budget has left, which nobody reads any more."""
        sequence = session.line.sequence
        held = sequence.num_cells + sum(r.sequence.num_cells for r in window.retired)
        if held < session.budget:
            self.core.reclaim(session.budget - held)
            sequence.grow(session.budget - held)

    def _moved(self, session: Ingest) -> None:
        for callback in self.after_move:
            callback(session)

    def _free(self, session: Ingest, window: Window) -> None:
        for retired in list(window.retired):
            if retired.readers.isdisjoint(session.questions):
                retired.sequence.drop()
                window.retired.remove(retired)
