"""Fill each step: decode of questions, their prefill, ingestion, flash queries, background work.

Questions and flash evaluations hold scratch cells from admission to their end and never wait for
more, so admitted work always completes; work that does not fit waits without holding anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from workbench.errors import WorkbenchError
from workbench.scheduler.cost import CostModel
from workbench.scheduler.plan import Phase, Plan, Slice
from workbench.scheduler.turns import Turns


class Kind(Enum):
    """What a work item is."""

    INGEST = "ingest"  # a session's data plane: never admitted, its cells are its budget
    QUESTION = "question"
    FLASH = "flash"


@dataclass(frozen=True)
class StepLimits:
    """Sizes of a step.

    Attributes:
        tokens: the most a step takes, unless one indivisible tail is longer.
        target_ms: the step time aimed at while a question is under way, in milliseconds.
        ingest_floor: tokens of ingestion that even such a step has room for: it never stands still.
        quantum: tokens a session may take per turn, and the most of a question that is not put off.
        flash_share: tokens kept for flash queries when ingestion could fill the whole step.
        draft_questions: guess tokens only while at most so many questions are under way; 0: never.
    """

    tokens: int = 256
    target_ms: float = 50.0
    ingest_floor: int = 8
    quantum: int = 64
    flash_share: int = 64
    draft_questions: int = 2

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("target_ms", 0), ("ingest_floor", 1), ("quantum", 1),
                            ("flash_share", 0), ("draft_questions", 0)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
                msg = f"StepLimits({name}={value!r}): expected a number of at least {least}"
                raise WorkbenchError(msg)


@dataclass
class _Work:
    id: int
    kind: Kind
    prefill: int = 0  # tokens known and not yet run
    tail: int = 1  # the last so many of them run in one step (a question's end with its choices)
    cells: int = 0  # scratch cells to admit it with
    context: int = 0  # cells that its next token reads
    group: int = 0  # the session it belongs to
    decoding: bool = False
    drafts: int = 0
    background: bool = False

    def next_length(self, room: int) -> int:
        """How many tokens to run in a step with ``room`` left; 0 if none fit."""
        if self.prefill <= max(room, 0) or self.prefill == self.tail:
            return self.prefill
        return max(0, min(room, self.prefill - self.tail))


class _Filling:
    """A step as it is being filled."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tokens = 0
        self.reads = 0
        self.slices: list[Slice] = []

    def add(self, item: _Work, length: int, phase: Phase) -> None:
        self.slices.append(Slice(item.id, length, phase))
        self.room -= length
        self.tokens += length
        self.reads += length * item.context


class Scheduler:
    """Knows every work item's counts, decides steps; told what ran by ``ran``.

    Args:
        limits: sizes of a step.
        cost: predicts step times; without one, ingestion beside questions is four floors.
    """

    def __init__(self, limits: StepLimits | None = None, cost: CostModel | None = None) -> None:
        self.limits = limits or StepLimits()
        self.cost = cost
        self._questions: deque[_Work] = deque()  # waiting
        self._flash: dict[int, deque[_Work]] = {}  # waiting, by group, the longest waiting first
        self._active: dict[int, _Work] = {}
        self._turns = Turns(self.limits.quantum)
        self._background = Turns(self.limits.quantum)

    # What there is.

    def add(
        self,
        work: int,
        kind: Kind,
        *,
        prefill: int = 0,
        tail: int = 1,
        cells: int = 0,
        context: int = 0,
        group: int = 0,
    ) -> None:
        """A new item: a session's ingestion (empty so far), a question or a flash evaluation.

        Args:
            work: its id, unique among living items.
            kind: what it is.
            prefill: tokens to run before its first result.
            tail: how many of the last of them must run in one step.
            cells: scratch cells it needs from admission to its end.
            context: cells that its first token reads.
            group: the session it belongs to; those of one session are evaluated together.
        """
        item = _Work(work, kind, prefill, max(1, min(tail, prefill)), cells, context, group)
        if kind is Kind.INGEST:
            self._active[work] = item
            self._turns.add(work)
            self._background.add(work)
        elif kind is Kind.QUESTION:
            self._questions.append(item)
        else:
            self._flash.setdefault(group, deque()).append(item)

    def set_backlog(self, work: int, tokens: int, *, background: bool = False) -> None:
        """A session's tokens waiting to be ingested, now; ``background``: only in idle time."""
        item = self._active[work]
        item.prefill, item.background = tokens, background

    def set_context(self, work: int, tokens: int) -> None:
        """Cells that an item's next token reads, where it is not for what ran."""
        self._active[work].context = tokens

    def set_decoding(self, work: int, *, drafts: int = 0) -> None:
        """From now on the item runs one token a step, and may run ``drafts`` guessed ones more."""
        item = self._active[work]
        item.decoding, item.drafts = True, drafts

    def ran(self, work: int, tokens: int) -> None:
        """So many tokens of an item have been computed and are kept."""
        item = self._active[work]
        item.context += tokens
        if not item.decoding:
            item.prefill = max(0, item.prefill - tokens)
        if item.kind is Kind.INGEST:
            (self._background if item.background else self._turns).ran()

    def remove(self, work: int) -> None:
        """Forget an item, wherever it stands; unknown ids are fine."""
        item = self._active.pop(work, None)
        if item is not None:
            if item.kind is Kind.INGEST:
                self._turns.remove(work)
                self._background.remove(work)
            return
        self._questions = deque(w for w in self._questions if w.id != work)
        for group, queue in list(self._flash.items()):
            self._flash[group] = deque(w for w in queue if w.id != work)
            if not self._flash[group]:
                del self._flash[group]

    def waiting(self, work: int) -> bool:
        """Whether an item is queued and not admitted yet."""
        queues = [self._questions, *self._flash.values()]
        return any(item.id == work for queue in queues for item in queue)

    @property
    def idle(self) -> bool:
        """Whether no item has anything to run."""
        return not (self._questions or self._flash) and not any(
            item.prefill or item.decoding for item in self._active.values()
        )

    # The decision.

    def plan(self, free_cells: int) -> Plan:
        """Decide the next step. Admission is remembered; everything else counts only once ``ran``.

        Args:
            free_cells: cells that branches may take now.
        """
        admitted = self._admit(free_cells)
        active = list(self._active.values())
        questions = [w for w in active if w.kind is Kind.QUESTION]
        flash = [w for w in active if w.kind is Kind.FLASH]
        step = _Filling(self.limits.tokens)
        self._fill_decode(questions, step)
        self._fill_questions(questions, step)
        limit, limited_by = self._ingest_limit(bool(questions), bool(flash), step)
        self._fill_ingest(self._turns, limit, Phase.INGEST, step)
        # A question that waits for cells waits for those of flash evaluations, too: they go on.
        if not questions:
            self._fill_flash(flash, step)
            self._fill_ingest(self._background, step.room, Phase.BACKGROUND, step)
        predicted_s = self.cost.predict(step.tokens, step.reads) if self.cost else 0.0
        if not step.slices:
            return Plan(admitted)
        return Plan(admitted, tuple(step.slices), limit, limited_by, predicted_s)

    def _admit(self, free_cells: int) -> tuple[int, ...]:
        """First come, first served, and no overtaking: whoever waits is reached.

        Flash evaluations are let in a session at a time, and only while no question is there.
        """
        admitted: list[_Work] = []

        def let_in(queue: deque[_Work]) -> bool:
            nonlocal free_cells
            while queue and queue[0].cells <= free_cells:
                item = queue.popleft()
                free_cells -= item.cells
                self._active[item.id] = item
                admitted.append(item)
            return not queue

        let_in(self._questions)
        busy = any(w.kind is Kind.QUESTION for w in self._active.values())
        if not self._questions and not busy:
            for group, queue in list(self._flash.items()):
                if not let_in(queue):
                    break
                del self._flash[group]
        return tuple(item.id for item in admitted)

    def _fill_decode(self, questions: list[_Work], step: _Filling) -> None:
        crowd = len(questions) + len(self._questions)
        guess = crowd <= self.limits.draft_questions
        for item in questions:
            if item.decoding:
                step.add(item, 1 + (item.drafts if guess else 0), Phase.DECODE)

    def _fill_questions(self, questions: list[_Work], step: _Filling) -> None:
        """Short ones whole, long ones a little; then these more, in order, if time allows."""
        prefilling = [w for w in questions if not w.decoding]
        if not prefilling:
            return
        alone = len(questions) == 1
        fair = max(1, min(step.room // len(prefilling), self.limits.quantum))
        little = fair if alone else min(fair, self.limits.ingest_floor)
        lengths: dict[int, int] = {}
        room, tokens, reads = step.room, step.tokens, step.reads
        for item in prefilling:
            length = item.next_length(min(room, fair if item.prefill <= fair else little))
            lengths[item.id] = length
            room, tokens = room - length, tokens + length
            reads += length * item.context
        for item in prefilling:
            first = lengths[item.id]
            more = room if alone else min(room, self._within_target(tokens, reads, item.context))
            length = max(first, item.next_length(first + max(0, more)))
            room, tokens = room - (length - first), tokens + length - first
            reads += (length - first) * item.context
            if length:
                step.add(item, length, Phase.QUESTION)

    def _within_target(self, tokens: int, reads: int, context: int) -> int:
        """How many more tokens keep a step within the time aimed at."""
        if self.cost is None:
            return 4 * self.limits.ingest_floor
        return self.cost.tokens_within(self.limits.target_ms / 1e3, tokens, reads, context)

    def _ingest_limit(self, questions: bool, flash: bool, step: _Filling) -> tuple[int, str]:
        """Ingestion's share of the step, and what decided it."""
        if not (questions or self._questions):
            keep = min(self.limits.flash_share, step.room // 2) if flash else 0
            return step.room - keep, "idle"
        waiting = [w for w in self._active.values() if w.kind is Kind.INGEST and w.prefill]
        context = sum(w.context for w in waiting) // max(1, len(waiting))
        limit = min(step.room, self._within_target(step.tokens, step.reads, context))
        if limit <= self.limits.ingest_floor:
            return self.limits.ingest_floor, "floor"
        return limit, "target"

    def _fill_ingest(self, turns: Turns, room: int, phase: Phase, step: _Filling) -> None:
        background = phase is Phase.BACKGROUND

        def backlog(work: int) -> int:
            item = self._active[work]
            return item.prefill if item.background is background else 0

        for work, tokens in turns.share(room, backlog).items():
            step.add(self._active[work], tokens, phase)

    def _fill_flash(self, flash: list[_Work], step: _Filling) -> None:
        """One token of each that decodes, then the prefill of the others, session by session."""
        for item in flash:
            if item.decoding:
                step.add(item, 1, Phase.FLASH)
        for item in flash:
            length = 0 if item.decoding else item.next_length(step.room)
            # The first one runs even over the limit: an idle engine must make progress.
            if length and (length <= step.room or not step.slices):
                step.add(item, length, Phase.FLASH)
