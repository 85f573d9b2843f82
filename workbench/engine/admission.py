"""Who gets cells: sessions are promised theirs, evictable ones take turns, openings wait in line.

Every session that may grow has its worst case counted from the start, and questions have cells of
their own that no session can be promised, so whatever was accepted completes: nobody ever waits for
a cell while holding one that others wait for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from workbench.cells.line import Line
from workbench.cells.pool import Span
from workbench.cells.sequence import Sequence
from workbench.engine.core import Core
from workbench.engine.origin import Origin
from workbench.engine.questions import Questions
from workbench.engine.windows import Windows
from workbench.engine.work import Ingest, Overflow, Window
from workbench.errors import CellsExhausted, SessionClosed, SessionExists
from workbench.events import Evicted, Returned, Shared
from workbench.scheduler.scheduler import Kind
from workbench.tick import OnFull, TickQueue
from workbench.waiting import Completion

# A busy evictable session keeps its cells until it has run so many tokens at least, or has been
# there for so many steps.
TURN_TOKENS, TURN_STEPS = 64, 256


@dataclass(frozen=True)
class SessionSpec:
    """What a session is opened with.

    Attributes:
        budget: the most cells it may ever hold.
        head: tokens it begins with.
        overflow, keep: what it does when full, and the tokens a rebuilt window keeps at least.
        evictable: whether its cells may be taken while it is idle.
        origin: what a fork begins as; its ``head`` are the tokens before any row all the same.
        first: called with it once it has its cells, before anything runs; what it raises closes
            the session and is raised to whoever opens it.
    """

    name: str
    budget: int
    head: list[int]
    max_pending: int = 4096
    on_full: OnFull = "block"
    overflow: Overflow = "error"
    keep: int = 0
    evictable: bool = False
    origin: Origin | None = None
    first: Callable[[Ingest], None] | None = None

    @property
    def capacity(self) -> int:
        """The most tokens its line may have: a window is rebuilt in the other half."""
        return self.budget // 2 if self.overflow == "rebuild" else self.budget


class Opening(Completion):
    """An ``open`` that waits for cells; ``session`` is set once it has them."""

    def __init__(self, spec: SessionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.session: Ingest | None = None


class Admission:
    """Opens and closes sessions, takes cells from idle evictable ones and gives them back."""

    def __init__(self, core: Core, questions: Questions, windows: Windows) -> None:
        self.core = core
        self.questions = questions
        self.windows = windows
        self._line: deque[Opening | Ingest] = deque()  # who waits for cells, first come first
        self._moves = 0  # how often a session got its cells

    # Accounts.

    def promised(self, sessions: Iterable[Ingest] | None = None) -> int:
        """Cells that sessions (all of them if None) hold or may still take.

        A session that only ever appends counts with the cells it holds, reserved ones included and
        shared ones once. One with a window may move away from what it shares, so it counts whole.
        """
        everyone = self.core.sessions.values() if sessions is None else sessions
        resident = [s for s in everyone if s.resident]
        spans = [span for s in resident if s.window is None for span in s.sequence.spans]
        whole = sum(s.budget for s in resident if s.window is not None)
        return self.core.pool.distinct(spans) + whole

    @property
    def for_sessions(self) -> int:
        """Cells that sessions may have in all."""
        return self.core.pool.num_cells - self.core.watermark

    def room(self) -> int:
        """Cells that can be promised now."""
        return self.for_sessions - self.promised()

    def _fits(self, session: Ingest, gone: Collection[Ingest] = ()) -> bool:
        """Whether a session that comes can be promised its cells once some others are gone."""
        others = [s for s in self.core.sessions.values() if s not in gone and s is not session]
        return self.promised(others) + self._needed(session, others) <= self.for_sessions

    def _needed(self, session: Ingest, others: Iterable[Ingest]) -> int:
        """Cells to promise a session that comes, beyond those promised to some others.

        What it shares with anyone else, such as a question, counts: that may be gone tomorrow.
        """
        if session.window is not None:
            return session.budget
        match = self.core.prefixes.match(session.line, session.line.token_ids)
        if match is None:
            return session.capacity
        firm = [s for s in others if s.resident and s.window is None]
        held = [span for s in firm for span in s.sequence.spans]
        shared = [Span(run.start, run.length) for run in match.line.sequence.runs(match.end)]
        num_new = self.core.pool.distinct([*held, *shared]) - self.core.pool.distinct(held)
        return session.capacity - match.end + num_new

    def _fits_once_others_leave(self, spec: SessionSpec, session: Ingest | None = None) -> bool:
        """Whether it fits without the evictable sessions, and still leaves room for each of them.

        This is what lets every accepted session have its turn, whatever is opened later.
        """
        sessions = self.core.sessions.values()
        firm = [s for s in sessions if not s.evictable]
        cells = self.promised(firm)
        largest = max((s.budget for s in sessions if s.evictable), default=0)
        if spec.evictable:
            largest = max(largest, spec.budget)
        else:
            cells += spec.budget if session is None else self._needed(session, firm)
        return cells + largest <= self.for_sessions

    # Opening and closing.

    @property
    def openings(self) -> list[Opening]:
        """Who waits to be opened, first come first."""
        return [entry for entry in self._line if isinstance(entry, Opening)]

    def open(self, spec: SessionSpec) -> Ingest:
        """Promise a session its cells, now.

        Raises:
            SessionExists: one of this name is open. CellsExhausted: the pool cannot promise so
            many, or others wait in line. Nothing changes.
        """
        self._check_name(spec)
        if waiting := self.openings:
            first = waiting[0].spec
            msg = (
                f"session {spec.name!r} needs {spec.budget:,} cells and {len(waiting)} wait in "
                f"line for theirs ({first.name!r} for {first.budget:,}); open it with wait=True "
                "to wait too"
            )
            raise CellsExhausted(msg)
        session = self._open(spec, insist=False)
        if session is None:
            raise CellsExhausted(self._refusal(spec))
        return session

    def queue(self, spec: SessionSpec) -> Opening:
        """The same, but wait in line for the cells.

        Raises:
            SessionExists: as `open`. CellsExhausted: not even an empty pool has so many.
        """
        self._check_name(spec)
        if spec.budget > self.for_sessions:
            msg = (
                f"session {spec.name!r} needs {spec.budget:,} cells, sessions have "
                f"{self.for_sessions:,} in all; ask for fewer, or open the engine with more cells"
            )
            raise CellsExhausted(msg)
        opening = Opening(spec)
        self._line.append(opening)
        self.settle()
        return opening

    def cancel(self, opening: Opening) -> None:
        """Leave the line; a session that was opened meanwhile is closed again."""
        if opening in self._line:
            self._line.remove(opening)
        elif opening.session is not None:
            self.close(opening.session)

    def _check_name(self, spec: SessionSpec) -> None:
        names = {s.name for s in self.core.sessions.values()}
        if spec.name in names | {opening.spec.name for opening in self.openings}:
            msg = f"session {spec.name!r} is open; close it first, or take another name"
            raise SessionExists(msg)

    def _open(self, spec: SessionSpec, *, insist: bool) -> Ingest | None:
        origin = spec.origin or Origin.empty(spec.head)
        line = Line(Sequence(self.core.pool), origin.token_ids)
        ticks = TickQueue(spec.name, spec.max_pending, spec.on_full)
        ticks.accepted_tokens = len(origin.token_ids)
        session = Ingest(self.core.next_id(), spec.name, spec.budget, spec.capacity, line, ticks,
                         origin.history, origin.head, now=origin.now)  # fmt: skip
        session.evictable, session.resident = spec.evictable, False
        if spec.overflow != "error":
            slack = (spec.capacity - spec.keep) // 2
            slack = slack if origin.slack is None else min(slack, origin.slack)
            session.window = Window(spec.overflow, spec.keep, origin.rows, slack, origin.tick)
        if not self._fits_once_others_leave(spec, session):
            return None
        if spec.evictable:
            # It is open even while others have the cells: it takes turns once it has work.
            has_room = self._fits(session)
        else:
            has_room = self._make_room(session, insist=insist)
            if not has_room:
                return None
        self.core.works[session.work] = self.core.sessions[session.work] = session
        self.core.scheduler.add(session.work, Kind.INGEST)
        if has_room:
            try:
                self._move_in(session)
                if spec.first is not None:
                    spec.first(session)
            except BaseException:
                self.close(session)
                raise
        self.core.warmer.want(self.promised(), self.core.watermark)
        return session

    def _refusal(self, spec: SessionSpec) -> str:
        def holding(session: Ingest) -> str:
            how = ", evictable" if session.evictable else ""
            how += "" if session.resident else ", evicted"
            return f"{session.name!r} {session.budget:,}{how}"

        holders = "; ".join(map(holding, self.core.sessions.values())) or "nobody"
        return (
            f"session {spec.name!r} needs {spec.budget:,} cells, {max(self.room(), 0):,} of "
            f"{self.core.pool.num_cells:,} can still be promised ({self.core.watermark:,} are kept "
            f"for questions; held by {holders}); close a session, ask for fewer, open it with "
            "wait=True or others as evictable, or open the engine with more cells"
        )

    def close(self, session: Ingest, reason: BaseException | None = None) -> None:
        """Free a session's cells; what was still asked or queued ends with ``reason``."""
        if session.closed:
            return
        session.closed = True
        error = reason or SessionClosed(f"session {session.name!r} was closed")
        for question in list(session.questions.values()):
            self.questions.end(question, "error", error)
        session.ticks.close(reason)
        self.windows.abandon(session)
        self.core.prefixes.remove(session.line)
        session.sequence.drop()
        self.core.scheduler.remove(session.work)
        self.core.works.pop(session.work)
        self.core.sessions.pop(session.work)
        if session in self._line:
            self._line.remove(session)

    def close_line(self, error: BaseException) -> None:
        """Nobody is opened any more: whoever waits is told."""
        for opening in self.openings:
            self._line.remove(opening)
            opening.finish(error)

    # Turns of evictable sessions.

    def settle(self) -> bool:
        """Before a step: give cells to whoever waits for them and can have them, in order.

        Returns:
            Whether anyone got some.
        """
        before = self._moves
        for session in self.core.sessions.values():
            if not session.resident and session.busy and session not in self._line:
                self._line.append(session)
        openings_wait = False
        for entry in list(self._line):
            if entry not in self._line:
                continue  # closed or cancelled meanwhile, by whoever was told of another
            if isinstance(entry, Ingest):
                if entry.busy and not self._bring_back(entry):
                    return self._moves > before  # nobody overtakes: whoever waits is reached
                if entry in self._line:
                    self._line.remove(entry)
            elif not openings_wait:
                spec = entry.spec
                try:
                    opened = self._open(spec, insist=True)
                except Exception as error:  # of ``first``; nobody else is to suffer from it
                    if entry in self._line:
                        self._line.remove(entry)
                    entry.finish(error)
                    continue
                if entry not in self._line:
                    if opened is not None:
                        self.close(opened)
                elif opened is not None:
                    self._line.remove(entry)
                    entry.session = opened
                    entry.finish()
                elif self._fits_once_others_leave(spec):
                    return self._moves > before
                else:
                    openings_wait = True  # until a session is closed; those who return go on
        for session in list(self.core.sessions.values()):
            if session.leaving:  # those who waited for its cells have others now
                session.leaving = False
                self.questions.release(session)
        return self._moves > before

    def settle_idle(self) -> bool:
        """With nothing to run: compute an evicted session again that nobody has asked for yet."""
        for session in self.core.sessions.values():
            idle = not session.resident and session.error is None and session.line.token_ids
            if idle and self._fits(session):
                session.background = True
                self._move_in(session)
                return True
        return False

    def _bring_back(self, session: Ingest) -> bool:
        if not self._make_room(session, insist=True):
            return False
        if session.closed:
            return True  # by whoever was told of an eviction
        session.background = False
        self._move_in(session)
        return True

    def _move_in(self, session: Ingest) -> None:
        """Give a session its cells; there is room for them."""
        line = session.line
        match = self.core.prefixes.match(line, line.token_ids)
        shared = match.end if match is not None else 0
        if match is not None:
            line.sequence = match.line.sequence.branch(shared)
            self.core.touch(match.line)
        self.core.reclaim(session.capacity - shared)
        line.sequence.grow(session.capacity - shared)
        self.core.prefixes.add(line)
        self.core.scheduler.set_context(session.work, line.computed)
        self._moves += 1
        session.resident, session.leaving, session.turn_tokens = True, False, 0
        if line.pending == 0:
            self.arrived(session)
        if shared:  # all is in order before anybody is told
            self.core.events.emit(Shared(session=session.name, tokens=shared))

    def arrived(self, session: Ingest) -> None:
        """Everything in a session's log is in cells (again): its questions may begin."""
        session.background, session.since = False, self.core.num_steps
        session.turn_tokens = 0
        if session.evicted_at is not None:
            away_s = time.perf_counter() - session.evicted_at
            session.evicted_at = None
            self.core.events.emit(
                Returned(session=session.name, tokens=session.line.computed, away_s=away_s)
            )
        self.questions.release(session)

    def _make_room(self, session: Ingest, *, insist: bool) -> bool:
        """Evict until a session that comes fits; evicts nobody if that would not do.

        Idle sessions go first, the longest unused first; then those whose turn is over.

        Args:
            session: who comes.
            insist: ask busy sessions whose turn is over to finish what they have begun.
        """
        everyone = self.core.sessions.values()
        evictable = [s for s in everyone if s.evictable and s.resident]
        idle = sorted((s for s in evictable if not s.busy), key=lambda s: s.last_used)
        over = sorted((s for s in evictable if s.busy and self._turn_over(s)), key=_since)
        if insist and not self._fits(session, idle) and self._fits(session, [*idle, *over]):
            for other in over:
                other.leaving = True
                self.questions.hold_back(other)
                for work in other.begun():
                    self.core.scheduler.hurry(work)
        leaving = [s for s in over if s.leaving and not s.begun()]
        if not self._fits(session, [*idle, *leaving]):
            return False
        for other in [*idle, *leaving]:
            if self._fits(session):
                break
            if other.resident and not other.closed:  # whoever is told of one may close the next
                self._evict(other)
        return True

    def _turn_over(self, session: Ingest) -> bool:
        """It has run as many tokens as its return costs, so coming and going is half at most.

        Or it has been there for so many steps: a session that only answers runs few tokens.
        """
        if session.line.pending:
            return False
        steps = self.core.num_steps - session.since
        enough = max(TURN_TOKENS, len(session.line.token_ids))
        return session.turn_tokens >= enough or steps >= TURN_STEPS

    def _evict(self, session: Ingest) -> None:
        self.questions.hold_back(session)
        self.windows.abandon(session)
        line = session.line
        self.core.prefixes.remove(line)
        line.sequence.drop()
        line.digests.clear()
        session.resident = session.leaving = session.background = False
        session.evicted_at = time.perf_counter()
        tokens = len(line.token_ids)
        self.core.events.emit(
            Evicted(session=session.name, tokens=tokens,
                    predicted_return_s=self.core.prefill_seconds(tokens))
        )  # fmt: skip


def _since(session: Ingest) -> int:
    return session.since
