"""The engine: one thread that owns the model, the pool and every sequence."""

from __future__ import annotations

import atexit
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from workbench.engine.admission import Admission
from workbench.engine.batch import Part, Step
from workbench.engine.core import Core
from workbench.engine.ingestion import Ingestion
from workbench.engine.logits import Logits
from workbench.engine.model import Decoder
from workbench.engine.questions import Questions
from workbench.engine.tokens import Tokens
from workbench.engine.windows import Windows
from workbench.engine.work import Ingest, Question, Rebuild
from workbench.errors import EngineClosed
from workbench.events import Planned, StepShare
from workbench.scheduler.cost import CostModel
from workbench.scheduler.plan import Phase, Plan, Slice
from workbench.scheduler.scheduler import Scheduler, StepLimits
from workbench.waiting import in_engine_thread

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    """One slice of the plan with the parts that compute it."""

    slice: Slice
    work: Ingest | Rebuild | Question
    parts: list[Part]


class StepEngine:
    """Plans and runs steps; everything else reaches it through ``call`` and thread-safe queues.

    Args:
        decoder, tokens: the model and its tokenizer.
        num_cells: size of the pool.
        watermark: cells that no session may be promised, so that branches always find room.
        limits: sizes of a step.
        cost: what steps cost, to begin with; it learns from every step.
        start: run the engine thread; tests turn it off and call ``step`` themselves.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tokens,
        *,
        num_cells: int,
        watermark: int,
        limits: StepLimits | None = None,
        cost: CostModel | None = None,
        start: bool = True,
    ) -> None:
        self.decoder = decoder
        self.tokens = tokens
        self.scheduler = Scheduler(limits, cost or CostModel())
        self.core = Core(decoder, tokens, num_cells, watermark, self.scheduler)
        self.questions = Questions(self.core)
        self.windows = Windows(self.core)
        self.admission = Admission(self.core, self.questions, self.windows)
        self.ingestion = Ingestion(self.core, self.questions, self.windows, self.admission)
        self.pool, self.cells = self.core.pool, self.core.cells
        self.events, self.watermark = self.core.events, watermark
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._gate = threading.Lock()  # orders `closed` against what is put in the inbox
        self._closed: EngineClosed | None = None
        self._thread: threading.Thread | None = None
        if start:
            self._thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._wake), name="workbench", daemon=True
            )
            self._thread.start()
            self.core.warmer.want(1, watermark)  # the first large page of each plane at least
            atexit.register(_close, weakref.ref(self))

    # The map.

    def step(self) -> bool:
        """One forward pass over whatever is most urgent; false when there was nothing to run."""
        self._read_inbox()
        began = time.perf_counter()
        moved = self.admission.settle()  # cells for who waits for them
        shared = self.ingestion.settle()  # windows, shared beginnings, what is left to read
        plan, changed = self._plan()
        if not plan:
            return moved or shared or changed or self.admission.settle_idle()
        jobs = [self._prepare(piece) for piece in plan.slices]
        for job, result in self._compute(jobs):
            self._commit(job, result)
        self._report(plan, jobs, time.perf_counter() - began)
        return True

    def _plan(self) -> tuple[Plan, bool]:
        """The scheduler's plan, and whether it is a second one.

        It is made anew when a question that begins needs less than was planned for it.
        """
        changed = False
        while True:
            plan = self.scheduler.plan(self.watermark - self.core.scratch)
            outdated = False
            for work in plan.admitted:
                question = self.core.works.get(work)
                if question is None:  # what became of one before it has ended it
                    outdated = True
                    continue
                assert isinstance(question, Question)
                outdated |= self.questions.begin(question)
            if not outdated:
                return plan, changed
            changed = True

    def _prepare(self, piece: Slice) -> _Job:
        work = self.core.works[piece.work]
        if isinstance(work, Question):
            return _Job(piece, work, self.questions.parts(work, piece.length))
        sequence = work.line.sequence
        ids = self.ingestion.take(work, piece.length)
        return _Job(piece, work, [Part(sequence, sequence.length, ids)])

    def _compute(self, jobs: list[_Job]) -> Iterable[tuple[_Job, Logits | BaseException]]:
        """Each job's kept logits, or why there are none; questions come first.

        If the forward fails, every job runs alone, so that only the one at fault is failed: cells
        written twice hold the same values.
        """
        # Answers first: a tick that commits supersedes flash evaluations still under way.
        jobs.sort(key=lambda job: not isinstance(job.work, Question))
        try:
            logits = self._forward([part for job in jobs for part in job.parts])
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            return [self._alone(job) for job in jobs]
        sizes = [sum(len(part.keep) for part in job.parts) for job in jobs]
        return list(zip(jobs, logits.split(sizes), strict=True))

    def _alone(self, job: _Job) -> tuple[_Job, Logits | BaseException]:
        """What a job gives by itself, copied: the next one's forward may write where it lies."""
        ((_, result),) = self._compute([job])
        return job, result.copied() if isinstance(result, Logits) else result

    def _forward(self, parts: list[Part]) -> Logits:
        step = Step.of(parts, self.cells, self.decoder.device)
        return Logits.of(self.decoder.forward(step), step.labels)

    def _commit(self, job: _Job, result: Logits | BaseException) -> None:
        work = job.work
        if work.work not in self.core.works:
            return  # an earlier outcome of this step ended it
        if isinstance(work, Question):
            try:
                if isinstance(result, BaseException):
                    raise result
                self.questions.commit(work, job.parts, result)
            except Exception as error:
                self.questions.fail(work, error)
        elif isinstance(work, Ingest) and not work.resident:
            return  # an earlier outcome took its cells: what it has read is still queued
        elif isinstance(result, BaseException):
            self.ingestion.fail(work, result)
        else:
            self.ingestion.commit(work, job.parts[0].ids)

    def _report(self, plan: Plan, jobs: list[_Job], duration_s: float) -> None:
        self.core.num_steps += 1
        parts = [part for job in jobs for part in job.parts]
        tokens = sum(len(part.ids) for part in parts)
        reads = sum(len(part.ids) * part.start for part in parts)
        assert self.scheduler.cost is not None
        self.scheduler.cost.observe(tokens, reads, duration_s)
        self.events.emit(
            Planned(
                step=self.core.num_steps, decode=plan.tokens(Phase.DECODE),
                question=plan.tokens(Phase.QUESTION), ingest=plan.tokens(Phase.INGEST),
                flash=plan.tokens(Phase.FLASH), background=plan.tokens(Phase.BACKGROUND),
                num_slices=len(plan.slices), duration_s=duration_s,
                predicted_s=plan.predicted_s, ingest_limit=plan.ingest_limit,
                limited_by=plan.limited_by, shares=_shares(jobs),
            )
        )  # fmt: skip

    @property
    def num_steps(self) -> int:
        """Steps run so far."""
        return self.core.num_steps

    # From other threads.

    def post(self, command: Callable[[], None]) -> None:
        """Run a command in the engine thread before its next step.

        Raises:
            EngineClosed: the engine was shut down.
        """
        with self._gate:
            if self._closed:
                raise self._closed.with_traceback(None)
            self._inbox.append(command)
        self._wake.set()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the engine thread and return what it returns."""
        if self._closed is not None and self._thread is not threading.current_thread():
            raise self._closed.with_traceback(None)
        if self._thread is None or self._thread is threading.current_thread():
            return function()
        future: Future[T] = Future()

        def command() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(command)
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if future.done():
                    return future.result()
                if self._closed and not self._thread.is_alive():
                    raise self._closed.with_traceback(None) from None

    def wake(self) -> None:
        """There is something new to run."""
        self._wake.set()

    @property
    def closed(self) -> bool:
        """Whether the engine was shut down."""
        return self._closed is not None

    def close(self, reason: str = "the engine was closed; open a new one") -> None:
        """Stop after the step under way. What was asked or queued ends with `EngineClosed`."""
        with self._gate:
            if self._closed is None:
                self._closed = EngineClosed(reason)
        self.core.warmer.close()
        self._wake.set()
        thread = self._thread
        if thread is None:
            self.end_all(self._closed)
        elif thread is not threading.current_thread():
            thread.join(timeout=30)

    def end_all(self, error: BaseException) -> None:
        """Tell every caller that it is over; the last thing the engine thread does."""
        self._read_inbox()
        self.admission.close_line(error)
        for session in list(self.core.sessions.values()):
            self.admission.close(session, error)
        for work in list(self.core.works.values()):
            assert isinstance(work, Question)
            self.questions.end(work, "error", error)
        self.core.reclaim(self.pool.num_cells)

    def _read_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()


def _shares(jobs: list[_Job]) -> tuple[StepShare, ...]:
    """Whose tokens a step ran, by session and phase."""
    tokens: dict[tuple[str, str], int] = {}
    for job in jobs:
        work = job.work
        session = work if isinstance(work, Ingest) else work.session
        key = (session.name if session is not None else "", job.slice.phase.name.lower())
        tokens[key] = tokens.get(key, 0) + job.slice.length
    return tuple(StepShare(name, phase, num) for (name, phase), num in tokens.items())


def _run(ref: weakref.ref[StepEngine], wake: threading.Event) -> None:
    """The engine thread: steps while there is work, sleeps while there is none.

    It holds the engine only while it steps, so an engine nobody names any more is collected.
    """
    in_engine_thread()
    while True:
        engine = ref()
        if engine is None:
            return
        wake.clear()
        try:
            while engine._closed is None and engine.step():
                pass
        except BaseException as error:
            # Whatever gets here is a bug of ours: say so, and leave nobody waiting.
            traceback.print_exc(file=sys.stderr)
            with engine._gate:
                msg = f"the engine stopped on a bug of its own: {error!r}"
                engine._closed = EngineClosed(msg)
        if engine._closed is not None:
            engine.end_all(engine._closed)
            return
        del engine
        wake.wait(timeout=5.0)


def _close(ref: weakref.ref[StepEngine]) -> None:
    engine = ref()
    if engine is not None:
        engine.close("the process is ending")
