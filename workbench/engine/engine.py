"""The engine: one thread that owns the model, the pool and every sequence."""

from __future__ import annotations

import atexit
import itertools
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

import torch
from torch import Tensor

from workbench.answer import Answer
from workbench.cells.pool import CellPool, Extent
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine.batch import Part, Step
from workbench.engine.model import Decoder
from workbench.engine.sampler import score_choices
from workbench.engine.tokens import Tokens
from workbench.engine.work import Ingest, Question
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    EngineClosed,
    QuestionError,
    SessionClosed,
    SessionExists,
    SessionFaulted,
    WorkbenchError,
)
from workbench.events import Answered, Committed, Events, Faulted, Planned, TokenOut
from workbench.scheduler.plan import Phase, Plan, Slice
from workbench.scheduler.scheduler import Kind, Scheduler, StepLimits
from workbench.tick import OnFull, Tick, TickQueue

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    """One slice of the plan with the parts that compute it."""

    slice: Slice
    work: Ingest | Question
    parts: list[Part]


class StepEngine:
    """Plans and runs steps; everything else reaches it through ``call`` and thread-safe queues.

    Args:
        decoder, tokens: the model and its tokenizer.
        num_cells: size of the pool.
        watermark: cells that no session may be promised, so that branches always find room.
        limits: sizes of a step.
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
        start: bool = True,
    ) -> None:
        self.decoder = decoder
        self.tokens = tokens
        self.pool = CellPool(num_cells)
        self.cells = CellTensors(decoder.layers, num_cells, decoder.dtype, decoder.device)
        self.watermark = watermark
        self.scheduler = Scheduler(limits)
        self.events = Events()
        self.after_commit: list[Callable[[Ingest], None]] = []
        self.num_steps = 0
        self._works: dict[int, Ingest | Question] = {}
        self._ids = itertools.count(1)
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
            atexit.register(_close, weakref.ref(self))

    # The map.

    def step(self) -> bool:
        """One forward pass over whatever is most urgent; false when there was nothing to run."""
        self._read_inbox()
        began = time.perf_counter()
        plan = self._plan()
        if not plan:
            return False
        jobs = [self._prepare(piece) for piece in plan.slices]
        # Answers first: a tick that commits supersedes flash evaluations still under way.
        jobs.sort(key=lambda job: isinstance(job.work, Ingest))
        for job, result in self._compute(jobs):
            if job.work.work not in self._works:
                continue  # an earlier outcome of this step ended it
            if isinstance(result, BaseException):
                self._fail(job.work, result)
            else:
                self._commit(job, result)
        self._report(plan, time.perf_counter() - began)
        return True

    def _plan(self) -> Plan:
        for work in self._works.values():
            if isinstance(work, Ingest):
                self.scheduler.set_backlog(work.work, 0 if work.error else work.ticks.tokens)
        plan = self.scheduler.plan(self._branch_cells())
        for work_id in plan.admitted:
            question = self._works[work_id]
            assert isinstance(question, Question)
            question.begin(self.tokens)
        return plan

    def _prepare(self, piece: Slice) -> _Job:
        work = self._works[piece.work]
        if isinstance(work, Ingest):
            start = work.sequence.length
            ids = work.ticks.peek(piece.length)
            return _Job(piece, work, [Part(work.sequence, start, ids)])
        assert work.branch is not None
        done = work.branch.length - work.answer.position  # of the question's own tokens
        if work.answer.token_ids:
            return _Job(piece, work, [Part(work.branch, work.branch.length,
                                           work.answer.token_ids[-1:], (0,))])  # fmt: skip
        if done + piece.length < work.prefill:
            ids = work.ids[done : done + piece.length]
            return _Job(piece, work, [Part(work.branch, work.branch.length, ids)])
        ids = work.ids[done:]
        parts = [Part(work.branch, work.branch.length, ids, (len(ids) - 1,))]
        for branch, choice in zip(work.choice_branches, work.choices, strict=True):
            if len(choice) > 1:
                rows = range(len(choice) - 1)
                parts.append(Part(branch, branch.length, choice[:-1], rows))
        return _Job(piece, work, parts)

    def _compute(self, jobs: list[_Job]) -> Iterable[tuple[_Job, Tensor | BaseException]]:
        """Each job's kept logits ``[kept, vocab]``, or why there are none.

        If the forward fails, every job runs alone, so that only the one at fault is failed: cells
        written twice hold the same values.
        """
        try:
            logits = self._forward([part for job in jobs for part in job.parts])
        except Exception as error:
            if len(jobs) == 1:
                return [(jobs[0], error)]
            return [pair for job in jobs for pair in self._compute([job])]
        sizes = [sum(len(part.keep) for part in job.parts) for job in jobs]
        return list(zip(jobs, logits.split(sizes), strict=True))

    def _forward(self, parts: list[Part]) -> Tensor:
        return self.decoder.forward(Step.of(parts, self.cells, self.decoder.device))

    def _commit(self, job: _Job, logits: Tensor) -> None:
        self.scheduler.ran(job.work.work, job.slice.length)
        if isinstance(job.work, Ingest):
            self._commit_ingest(job.work, list(job.parts[0].ids))
            return
        try:
            self._commit_question(job.work, job, logits)
        except Exception as error:
            self._fail(job.work, error)

    def _report(self, plan: Plan, duration_s: float) -> None:
        self.num_steps += 1
        self.events.emit(
            Planned(
                step=self.num_steps, decode=plan.tokens(Phase.DECODE),
                question=plan.tokens(Phase.QUESTION), ingest=plan.tokens(Phase.INGEST),
                flash=plan.tokens(Phase.FLASH), num_slices=len(plan.slices), duration_s=duration_s,
            )
        )  # fmt: skip

    # What a slice's outcome means.

    def _commit_ingest(self, session: Ingest, ids: list[int]) -> None:
        session.sequence.length += len(ids)
        session.token_ids.extend(ids)
        finished = session.ticks.consume(len(ids))
        for tick in finished:
            session.now = session.now.after(tick)
            tick.version = session.now.version
            tick.finish()
            if not tick.is_head:
                lag_s = time.perf_counter() - tick.pushed_at
                self.events.emit(
                    Committed(session=session.name, lag_s=lag_s, **session.now._asdict())
                )
        if finished:
            ready = [pair for pair in session.held_back if pair[0].done]
            session.held_back = [pair for pair in session.held_back if not pair[0].done]
            for _, question in ready:
                self._queue(question)
            for callback in self.after_commit:
                callback(session)

    def _commit_question(self, question: Question, job: _Job, logits: Tensor) -> None:
        branch, answer = question.branch, question.answer
        assert branch is not None and question.sampler is not None and question.stream is not None
        branch.length += len(job.parts[0].ids)
        if not len(logits):
            return  # a chunk of a long question
        if not bool(torch.isfinite(logits).all()):
            msg = "the model returned logits that are not finite; try dtype='float32'"
            raise QuestionError(msg)
        if question.choices:
            rows, at = [], 1
            for ids in question.choices:
                rows.append(logits[at : at + len(ids) - 1])
                at += len(ids) - 1
            chances, logprobs = score_choices(logits[0], rows, question.choices)
            best = max(range(len(chances)), key=chances.__getitem__)
            answer.choose(dict(zip(question.choice_texts, chances, strict=True)),
                          question.choices[best], logprobs[best])  # fmt: skip
            self._end(question, "choice")
            return
        token, logprob = question.sampler.pick(logits[0])
        answer.add(token, logprob)
        if token in self.tokens.eos_ids:
            self._end(question, "stop")
            return
        before = question.stream.text
        question.stream.add(token)
        self._show(question, before)
        if question.stream.stopped:
            self._end(question, "stop")
        elif len(answer.token_ids) >= question.sampling.max_tokens:
            self._end(question, "length")
        else:
            self.scheduler.set_decoding(question.work)

    def _show(self, question: Question, before: str) -> None:
        assert question.stream is not None
        text = question.stream.text
        if text != before:
            question.answer.show(text)
            if question.kind is Kind.QUESTION:
                self.events.emit(TokenOut(session=question.session.name,
                                          question=question.answer.question,
                                          text=text[len(before) :]))  # fmt: skip

    def _end(self, question: Question, reason: str, error: BaseException | None = None) -> None:
        """Forget a question and tell its caller, in that order: its cells are free by then."""
        if self._works.pop(question.work, None) is None:
            return
        self.scheduler.remove(question.work)
        question.session.questions.pop(question.work, None)
        session = question.session
        session.held_back = [pair for pair in session.held_back if pair[1] is not question]
        if question.stream is not None and not question.choices:
            before = question.stream.text
            question.stream.flush()
            self._show(question, before)
        question.drop()
        answer = question.answer
        answer.end(reason, error)
        if error is None and question.kind is Kind.QUESTION:
            self.events.emit(answered(answer))

    def _fail(self, work: Ingest | Question, error: BaseException) -> None:
        """An error reaches the caller it belongs to, and nobody else."""
        if isinstance(work, Question):
            if not isinstance(error, WorkbenchError):
                trace = error
                error = QuestionError(f"the model failed on this question: {trace!r}")
                error.__cause__ = trace
            self._end(work, "error", error)
            return
        fault = SessionFaulted(
            f"ingestion into session {work.name!r} failed ({error!r}); its {work.ticks.rows} rows "
            "are still queued, session.retry() goes on from there"
        )
        fault.__cause__ = error
        work.error = fault
        for _, question in list(work.held_back):
            self._end(question, "error", fault)
        self.events.emit(Faulted(session=work.name, message=str(fault)))
        work.ticks.fault(fault)

    def retry_session(self, session: Ingest) -> None:
        """Go on ingesting after a fault; what was queued is still queued."""
        session.error = None
        session.ticks.mend()

    # Sessions and questions, called in the engine thread (through `call` from any other).

    def add_session(
        self, name: str, budget: int, head: list[int], max_pending: int, on_full: OnFull
    ) -> Ingest:
        """Promise a session its cells and queue its head.

        Raises:
            SessionExists: one of this name is open. CellsExhausted: the pool cannot promise so
            many. Nothing changes.
        """
        promised = {w.name: w.budget for w in self._works.values() if isinstance(w, Ingest)}
        if name in promised:
            msg = f"session {name!r} is open; close it first, or take another name"
            raise SessionExists(msg)
        room = self.pool.num_cells - self.watermark - sum(promised.values())
        if budget > room:
            holders = ", ".join(f"{n!r} {b:,}" for n, b in promised.items()) or "nobody"
            msg = (
                f"session {name!r} needs {budget:,} cells, {max(room, 0):,} of "
                f"{self.pool.num_cells:,} can still be promised ({self.watermark:,} are kept for "
                f"questions; held by {holders}); close a session, ask for fewer, or open the "
                "engine with more cells"
            )
            raise CellsExhausted(msg)
        sequence = Sequence(self.pool)
        sequence.grow(budget)
        ticks = TickQueue(name, max_pending, on_full)
        session = Ingest(next(self._ids), name, budget, sequence, ticks)
        self._works[session.work] = session
        self.scheduler.add(session.work, Kind.INGEST)
        if head:
            ticks.put(Tick(head, 0, is_head=True))
        return session

    def drop_session(self, session: Ingest, reason: BaseException | None = None) -> None:
        """Free a session's cells; what was still asked or queued ends with ``reason``."""
        if session.closed:
            return
        session.closed = True
        error = reason or SessionClosed(f"session {session.name!r} was closed")
        for question in list(session.questions.values()):
            self._end(question, "error", error)
        session.ticks.close(reason)
        self.scheduler.remove(session.work)
        self._works.pop(session.work, None)
        session.sequence.drop()

    def add_question(self, question: Question) -> None:
        """Queue a question; it starts at a step boundary, when its scratch cells are free."""
        session = question.session
        error: BaseException | None = session.error if question.after else None
        if session.closed:
            error = SessionClosed(f"session {session.name!r} is closed; open it again to ask")
        if question.cells > self.watermark:
            error = CellsExhausted(
                f"the question needs {question.cells:,} cells ({len(question.ids):,} of its own "
                f"tokens and {question.cells - len(question.ids):,} for the answer), questions "
                f"have {self.watermark:,}; shorten it, lower max_tokens, or open the engine with "
                "a larger watermark"
            )
        if session.now.position + question.cells > self.decoder.max_positions:
            error = QuestionError(
                f"the question ends {question.cells:,} tokens past position "
                f"{session.now.position:,}, the model has {self.decoder.max_positions:,} "
                "positions; shorten it or lower max_tokens"
            )
        if error is not None:
            question.answer.end("error", error)
            return
        self._works[question.work] = question
        session.questions[question.work] = question
        if question.answer.cancelled:
            self._end(question, "cancelled", Cancelled("cancelled before it began"))
        elif question.after is not None and not question.after.done:
            session.held_back.append((question.after, question))
        else:
            self._queue(question)

    def _queue(self, question: Question) -> None:
        self.scheduler.add(question.work, question.kind, prefill=question.prefill,
                           tail=question.tail, cells=question.cells)  # fmt: skip

    def cancel(self, work: int) -> None:
        """End a question now; its answer keeps the text that has arrived."""
        question = self._works.get(work)
        if isinstance(question, Question):
            shown = len(question.answer.token_ids)
            error = Cancelled(f"cancelled after {shown} tokens; the text so far is kept")
            self._end(question, "cancelled", error)

    def next_id(self) -> int:
        """A fresh work id, from any thread."""
        return next(self._ids)

    def _branch_cells(self) -> int:
        """Cells that branches may still take.

        All branches together stay within the watermark, so that whether a session can be opened
        does not depend on who is asking right now.
        """
        promised = sum(w.budget for w in self._works.values() if isinstance(w, Ingest))
        taken = self.pool.num_cells - self.pool.num_free - promised
        return self.watermark - taken

    # From other threads.

    def post(self, command: Callable[[], None]) -> None:
        """Run a command in the engine thread before its next step.

        Raises:
            EngineClosed: the engine was shut down.
        """
        with self._gate:
            if self._closed:
                raise self._closed
            self._inbox.append(command)
        self._wake.set()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the engine thread and return what it returns."""
        if self._closed is not None and self._thread is not threading.current_thread():
            raise self._closed
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
                    raise
                if self._closed and not self._thread.is_alive():
                    raise self._closed from None

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
        self._wake.set()
        thread = self._thread
        if thread is None:
            self.end_all(self._closed)
        elif thread is not threading.current_thread():
            thread.join(timeout=30)

    def end_all(self, error: BaseException) -> None:
        """Tell every caller that it is over; the last thing the engine thread does."""
        self._read_inbox()
        for work in list(self._works.values()):
            if isinstance(work, Ingest):
                self.drop_session(work, error)

    def held_extents(self) -> list[Extent]:
        """Every extent every living sequence holds, for ``pool.check``."""
        sequences: list[Sequence] = []
        for work in self._works.values():
            if isinstance(work, Ingest):
                sequences.append(work.sequence)
            else:
                sequences += [*([work.branch] if work.branch else []), *work.choice_branches]
        return [extent for sequence in sequences for extent in sequence.extents]

    def _read_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()


def answered(answer: Answer) -> Answered:
    """The event of a finished answer."""
    return Answered(
        session=answer.session_name, question=answer.question, position=answer.position,
        queue_ms=answer.queue_ms, ttft_ms=answer.ttft_ms, total_ms=answer.total_ms,
        num_tokens=len(answer.token_ids), from_flash=answer.from_flash,
        choices=answer.choice is not None,
    )  # fmt: skip


def _run(ref: weakref.ref[StepEngine], wake: threading.Event) -> None:
    """The engine thread: steps while there is work, sleeps while there is none.

    It holds the engine only while it steps, so an engine nobody names any more is collected.
    """
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
