"""The data plane: which tokens each session reads next, which are shared, and what they commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from workbench.cells.line import STRETCH
from workbench.cells.prefix import Match
from workbench.cells.sequence import Sequence as Cells
from workbench.engine.admission import Admission
from workbench.engine.core import Core
from workbench.engine.questions import Questions
from workbench.engine.windows import Windows
from workbench.engine.work import Ingest, Mark, Rebuild
from workbench.errors import SessionFaulted
from workbench.events import Committed, Faulted, Shared
from workbench.tick import Tick

LOOK = 1024  # tokens ahead that are compared with what other lines have computed
MOST_PIECES = 16  # of a line, before short pieces of others are copied instead of held
LEAST_PIECE = 256  # tokens; a piece so long is held always

Key = tuple[bool, int, bytes, bytes, int]


class Ingestion:
    """Settles what every session has to read before a step, and commits what a step has read.

    Equal beginnings are computed once: before each step a line takes over the cells of any other
    line that has computed just its next tokens after just the same history, and of several lines
    that wait to compute the same token after the same history, only the first is planned.
    """

    def __init__(
        self, core: Core, questions: Questions, windows: Windows, admission: Admission
    ) -> None:
        self.core = core
        self.questions = questions
        self.windows = windows
        self.admission = admission
        self._shared = 0  # tokens that lines took over from others, so far
        self.after_commit: list[Callable[[Ingest], None]] = []

    def settle(self) -> bool:
        """Move windows, share, and tell the scheduler what is left to compute.

        Returns:
            Whether a line has got on by sharing.
        """
        leaders: dict[Key, Ingest | Rebuild] = {}
        before = self._shared
        for session in list(self.core.sessions.values()):
            if session.window is not None and not session.closed:
                self.windows.settle(session)
                if (rebuild := session.window.rebuild) is not None:
                    self._settle(rebuild, not session.window.stalled, leaders)
            if session.closed:
                continue  # by whoever was told of something just now
            asked_for = bool(session.questions or session.ticks.tokens)
            self._settle(session, session.background and not asked_for, leaders)
        return self._shared > before

    def _settle(
        self, work: Ingest | Rebuild, background: bool, leaders: dict[Key, Ingest | Rebuild]
    ) -> None:
        backlog = self._backlog(work)
        if backlog and work.line in self.core.prefixes:
            while upcoming := self.take(work, min(LOOK, backlog)):
                match = self.core.prefixes.match(work.line, upcoming)
                if match is None:
                    break
                taken = upcoming[: match.end - work.line.computed]
                replays = _replays(work)
                self._take_over(work.line.sequence, match)
                self.core.touch(match.line)
                self.core.scheduler.set_context(work.work, match.end)
                session = work.session if isinstance(work, Rebuild) else work
                self._shared += len(taken)
                self._advance(work, taken, replays)
                self.core.events.emit(Shared(session=session.name, tokens=len(taken)))
                if work.work not in self.core.works:
                    return  # whoever was told has closed it
                backlog = self._backlog(work)
            if isinstance(work, Ingest):
                work.ticks.hold(0)
            if upcoming:
                leader = leaders.setdefault(_key(work, background, upcoming[0]), work)
                if leader is not work:
                    self._follow(work, leader, background)
                    return
        awaited = self._awaited(work, backlog)
        self.core.scheduler.set_backlog(
            work.work, backlog, awaited=awaited, background=background and not awaited
        )

    def _take_over(self, own: Cells, match: Match) -> None:
        """Hold another line's cells; where its pieces would be many and short, copy them.

        Lines that take turns in being first would be in pieces of a tick each, and attention walks
        piece by piece.
        """
        other, start = match.line.sequence, own.length
        if len(own.runs(start)) >= MOST_PIECES and match.end - start < LEAST_PIECE:
            source = other.slots(start, match.end)
            if source[0] != own.slots(start - 1, start)[0] + 1:
                self.core.cells.copy(source, own.slots(start, match.end))
                own.length = match.end
                return
        own.adopt(other, match.end)

    def _follow(self, work: Ingest | Rebuild, leader: Ingest | Rebuild, background: bool) -> None:
        """Another line computes just what this one wants next: it waits for that."""
        self.core.scheduler.set_backlog(work.work, 0)
        awaited = self._awaited(work, self._backlog(work))
        backlog = self._backlog(leader)
        if awaited > self._awaited(leader, backlog):
            self.core.scheduler.set_backlog(
                leader.work, backlog, awaited=min(awaited, backlog), background=background
            )

    def _awaited(self, work: Ingest | Rebuild, backlog: int) -> int:
        """How much of a backlog somebody's question waits for."""
        if isinstance(work, Rebuild) or not work.held or not backlog:
            return 0
        if work.line.pending:
            return backlog
        awaited = [q.awaited for q in work.held]
        return min(backlog, work.ticks.tokens_until([tick for tick in awaited if tick]))

    def _backlog(self, work: Ingest | Rebuild) -> int:
        session = work.session if isinstance(work, Rebuild) else work
        if session.error is not None or not session.resident or session.leaving:
            return 0
        if isinstance(work, Rebuild) or work.line.pending:
            return work.line.pending
        return min(work.ticks.tokens, self.windows.room(work))

    def take(self, work: Ingest | Rebuild, num_tokens: int) -> Sequence[int]:
        """The next tokens a line has to read, at most ``num_tokens``.

        They stay the next ones until they are committed, whatever is pushed meanwhile.
        """
        if _replays(work):
            return work.line.upcoming(num_tokens)
        assert isinstance(work, Ingest)
        return work.ticks.hold(num_tokens)

    def commit(self, work: Ingest | Rebuild, ids: Sequence[int]) -> None:
        """A step has computed these tokens of a line."""
        self.core.scheduler.ran(work.work, len(ids))
        replays = _replays(work)
        work.line.sequence.length += len(ids)
        if isinstance(work, Ingest):
            work.turn_tokens += len(ids)
            work.last_used = self.core.num_steps
        self._advance(work, ids, replays)

    def _advance(self, work: Ingest | Rebuild, ids: Sequence[int], replays: bool) -> None:
        """The cells of ``ids`` are written: log them, and make complete ticks visible."""
        line = work.line
        if not replays:
            line.token_ids.extend(ids)
        self.core.prefixes.note(line)
        if isinstance(work, Rebuild):
            return
        if not replays:
            if work.window is not None and work.window.rebuild is not None:
                work.window.rebuild.line.token_ids.extend(ids)
            self._consume(work, len(ids))
        elif line.pending == 0:
            self.admission.arrived(work)

    def _consume(self, session: Ingest, num_tokens: int) -> None:
        finished: list[tuple[Tick, Mark]] = []

        def whole(tick: Tick) -> None:
            session.now = session.now.after(tick)
            session.history.add(tick.num_tokens, tick.rows, tick.row_starts)
            if session.window is not None:
                session.window.rows.add(tick.num_tokens, tick.row_starts)
                session.window.tick = max(tick.num_tokens, 0.9 * session.window.tick)
            finished.append((tick, session.now))

        session.ticks.consume(num_tokens, whole)
        for tick, now in finished:  # all are in the books before anybody is told
            tick.version = now.version
            tick.finish()
            lag_s = time.perf_counter() - tick.pushed_at
            self.core.events.emit(
                Committed(session=session.name, lag_s=lag_s, **now._asdict())
            )
        if finished:
            self.questions.release(session)
            for callback in self.after_commit:
                callback(session)

    def fail(self, work: Ingest | Rebuild, error: BaseException) -> None:
        """Stand still until ``retry``: the owner is told, and whoever waits for the data."""
        session = work.session if isinstance(work, Rebuild) else work
        fault = SessionFaulted(
            f"ingestion into session {session.name!r} failed ({error!r}); its "
            f"{session.ticks.rows} rows are still queued, session.retry() goes on from there"
        )
        fault.__cause__ = error
        session.error = fault
        session.ticks.fault(fault)
        self.questions.fail_held(session, fault)
        self.core.events.emit(Faulted(session=session.name, message=str(fault)))

    def retry(self, session: Ingest) -> None:
        """Go on after a fault; what was queued is still queued."""
        session.error = None
        session.ticks.mend()


def _replays(work: Ingest | Rebuild) -> bool:
    """Whether what it reads next is in its log already."""
    return isinstance(work, Rebuild) or work.line.pending > 0


def _key(work: Ingest | Rebuild, background: bool, token: int) -> Key:
    """Equal for lines that would compute the same cell next."""
    line = work.line
    whole = len(line.digests)
    tail = line.token_ids[len(line.digests) * STRETCH : line.computed].tobytes()
    return background, line.computed, line.digest(whole), tail, token
