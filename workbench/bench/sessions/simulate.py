"""The real scheduler on a virtual clock: steps take what a cost model says, nothing is computed.

Follows the engine's rules: what arrives is seen at the next step, a question waits until the ticks
pushed before it are visible and is answered as of its admission, a commit makes flash queries due,
and one under way that newer data overtakes is given up, at most twice in a row. Left out is what
depends on the data's words: the cost of wrong guesses, and beginnings that sessions share.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.bench.sessions.arrivals import Arrival, Sizes, What, Workload
from workbench.bench.sessions.measure import FlashDone, Log
from workbench.errors import WorkbenchError
from workbench.scheduler.cost import CostModel
from workbench.scheduler.plan import Phase, Plan
from workbench.scheduler.scheduler import Kind, Scheduler, StepLimits

MAX_DROPS_IN_A_ROW = 2  # as `workbench.flash.board`, which cannot be imported without a model


@dataclass(eq=False)
class _Query:
    """A standing question: the version of its latest answer, and the evaluation under way."""

    index: int
    version: int = 0
    drops: int = 0
    running: _Question | None = None


@dataclass(eq=False)
class _Session:
    """A session's tokens: visible ones up to ``position``, computed ones maybe further."""

    index: int
    work: int
    position: int
    computed: int
    queries: list[_Query]
    version: int = 0
    pushed: int = 0  # ticks so far, those that wait included
    backlog: int = 0
    ticks: deque[list[int]] = field(default_factory=deque)  # index among arrivals, tokens left
    held: list[_Question] = field(default_factory=list)


@dataclass(eq=False)
class _Question:
    """A question or a flash evaluation, ``index`` being its place among the arrivals.

    Attributes:
        prefill, tail, decodes: tokens to run, how many of them at once, one-token forwards then.
        after: the version it waits for.
        version, position: what it is answered as of, once it is admitted.
        done: tokens run so far.
    """

    work: int
    session: _Session
    index: int
    prefill: int
    tail: int
    decodes: int
    after: int = 0
    query: _Query | None = None
    version: int = -1
    position: int = 0
    done: int = 0

    @property
    def cells(self) -> int:
        """Scratch cells from admission to the end."""
        return self.prefill + self.decodes


class Simulation:
    """One run over some arrivals.

    Args:
        workload, due, sizes: what arrives, and what it weighs.
        cost: the time a step takes; the scheduler predicts with the same.
        limits: sizes of a step.
        watermark: scratch cells that questions may have.
        drain: seconds to go on after the last arrival, at most.
    """

    def __init__(
        self,
        workload: Workload,
        due: Sequence[Arrival],
        sizes: Sizes,
        *,
        cost: CostModel,
        limits: StepLimits,
        watermark: int,
        drain: float,
    ) -> None:
        self.workload, self.due, self.sizes = workload, due, sizes
        self.cost = cost
        self.scheduler = Scheduler(limits, cost)
        self.log = Log(workload.seconds)
        self.now = 0.0
        self.until = workload.seconds + drain
        self.free = self.watermark = watermark
        self._next = 0  # of the arrivals
        self._backlog = 0  # tokens of all sessions
        self._ids = itertools.count(1)
        self._tick_tokens, self._accepted = iter(sizes.ticks), iter(sizes.accepted)
        self._questions: dict[int, _Question] = {}
        self._sessions: dict[int, _Session] = {}
        for index, context in enumerate(sizes.contexts):
            queries = [_Query(number) for number in range(workload.flash)]
            session = _Session(index, next(self._ids), context, context, queries)
            self._sessions[session.work] = session
            self.scheduler.add(session.work, Kind.INGEST, context=context)
        self._by_index = list(self._sessions.values())

    def run(self) -> Log:
        """Replay everything; returns what happened."""
        while self.now < self.until:
            self._deliver()
            if self._questions or self._backlog:
                plan = self.scheduler.plan(self.free)
                for work in plan.admitted:
                    self._begin(self._questions[work])
                assert plan, "what is under way always has a next step"
                self._step(plan)
            elif self._next < len(self.due):
                self.now = self.due[self._next].at  # idle until then
            else:
                break
        self.log.close(len(self.due), self.now)
        return self.log

    # What arrives.

    def _deliver(self) -> None:
        while self._next < len(self.due) and self.due[self._next].at <= self.now:
            index, arrival = self._next, self.due[self._next]
            session = self._by_index[arrival.session]
            self._next += 1
            if arrival.what is What.TICK:
                tokens = next(self._tick_tokens)
                session.ticks.append([index, tokens])
                session.pushed += 1
                session.backlog += tokens
                self._backlog += tokens
                self._tell(session)
            else:
                self._ask(index, session, closed=arrival.what is What.CHOICES)

    def _ask(self, index: int, session: _Session, *, closed: bool) -> None:
        extra, accepted = self.sizes.more_choices, next(self._accepted)
        decodes = 0 if closed else self.workload.answer_tokens - 1 - accepted
        more = extra if closed else 0
        question = _Question(next(self._ids), session, index, self.sizes.question + more, 1 + more,
                             decodes, after=session.pushed)  # fmt: skip
        if session.version >= question.after:
            self._queue(question, Kind.QUESTION)
        else:
            session.held.append(question)
            self._tell(session)

    def _tell(self, session: _Session) -> None:
        """What the session has to read, and how much of it a question waits for."""
        after = max((question.after for question in session.held), default=session.version)
        waits = itertools.islice(session.ticks, after - session.version)
        awaited = sum(tokens for _, tokens in waits)
        self.scheduler.set_backlog(session.work, session.backlog, awaited=awaited)

    def _queue(self, question: _Question, kind: Kind) -> None:
        if question.cells > self.watermark:
            msg = (
                f"a question and its answer of {question.cells:,} tokens: expected at most "
                f"{self.watermark:,}, the watermark; make it shorter"
            )
            raise WorkbenchError(msg)
        self._questions[question.work] = question
        self.scheduler.add(
            question.work, kind, prefill=question.prefill, tail=question.tail,
            cells=question.cells, context=question.session.position, group=question.session.work,
        )  # fmt: skip

    # A step.

    def _begin(self, question: _Question) -> None:
        self.free -= question.cells
        question.version = question.session.version
        question.position = question.session.position

    def _step(self, plan: Plan) -> None:
        reads, tokens = 0, Counter[str]()
        for piece in plan.slices:
            asked = self._questions.get(piece.work)
            start = asked.position + asked.done if asked else self._sessions[piece.work].computed
            reads += piece.length * start
            tokens[piece.phase.name.lower()] += piece.length
        # The scheduler's model is never told: it would only see itself confirmed.
        seconds = self.cost.predict(tokens.total(), reads)
        self.now += seconds
        self.log.ran(self.now, seconds, **tokens)
        # Answers first, as in the engine: a tick that commits supersedes evaluations under way.
        for piece in plan.slices:
            if (asked := self._questions.get(piece.work)) is not None:
                self._advance(asked, piece.length)
        for piece in plan.slices:
            if piece.phase is Phase.INGEST:
                self._ingest(self._sessions[piece.work], piece.length)

    def _advance(self, question: _Question, tokens: int) -> None:
        question.done += tokens
        self.scheduler.ran(question.work, tokens)
        if question.done < question.prefill:
            return
        if question.done == question.prefill and question.query is None:
            self.log.first[question.index] = self.now
        if question.done == question.cells:
            self._end(question)
        else:
            self.scheduler.set_decoding(question.work)

    def _end(self, question: _Question) -> None:
        self._forget(question)
        query = question.query
        if query is None:
            self.log.done[question.index] = self.now
            return
        session = question.session
        query.running, query.drops, query.version = None, 0, question.version
        self.log.flash.append(FlashDone(self.now, session.index, query.index, question.version))
        self._evaluate(session, query)

    def _forget(self, question: _Question) -> None:
        del self._questions[question.work]
        self.scheduler.remove(question.work)
        if question.version >= 0:
            self.free += question.cells

    def _ingest(self, session: _Session, tokens: int) -> None:
        self.scheduler.ran(session.work, tokens)
        session.computed += tokens
        session.backlog -= tokens
        self._backlog -= tokens
        before = session.version
        while session.ticks and tokens >= session.ticks[0][1]:
            index, left = session.ticks.popleft()
            tokens -= left
            session.version += 1
            self.log.done[index] = self.now
        if session.ticks:
            session.ticks[0][1] -= tokens
        if session.version > before:
            session.position = session.computed - tokens
            self._commit(session)

    def _commit(self, session: _Session) -> None:
        """A session has a new version: release who waited for it, refresh its flash queries."""
        ready = [q for q in session.held if q.after <= session.version]
        session.held = [q for q in session.held if q.after > session.version]
        for question in ready:
            self._queue(question, Kind.QUESTION)
        for query in session.queries:
            running = query.running
            if running and running.version >= 0 and query.drops < MAX_DROPS_IN_A_ROW:
                query.drops += 1
                query.running = None
                self._forget(running)
            self._evaluate(session, query)

    def _evaluate(self, session: _Session, query: _Query) -> None:
        """Queue an evaluation, unless one is queued or running, or there is nothing new."""
        if query.running is not None or query.version == session.version:
            return
        more = self.sizes.more_choices
        query.running = _Question(next(self._ids), session, -1, self.sizes.flash + more, 1 + more,
                                  0, query=query)  # fmt: skip
        self._queue(query.running, Kind.FLASH)
