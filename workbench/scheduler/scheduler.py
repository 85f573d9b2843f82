"""Fill each step: decode of questions, their prefill, ingestion, flash queries, background work.

Questions and flash evaluations hold scratch cells from admission to their end and never wait for
more, so admitted work always completes; work that does not fit waits without holding anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from workbench.errors import WorkbenchError
from workbench.scheduler.cost import CostModel
from workbench.scheduler.filling import Filling, Kind, Work
from workbench.scheduler.plan import Phase, Plan
from workbench.scheduler.turns import Turns


@dataclass(frozen=True)
class StepLimits:
    """Sizes of a step.

    Attributes:
        tokens: the most a step takes, unless one indivisible tail is longer, or more answers than
            that are being written.
        target_ms: the step time aimed at while a question is under way, in milliseconds.
        ingest_floor: tokens of ingestion that even such a step has room for: it never stands still.
        quantum: tokens a session may take per turn, and the most of a question that is not put off.
        flash_share: tokens kept for flash queries when ingestion could fill the whole step.
        draft_questions: guess tokens from the context only while at most so many questions are
            under way; 0: never, nor from the same question's last answer, which is guessed from
            whoever else asks.
    """

    tokens: int = 256
    target_ms: float = 20.0
    ingest_floor: int = 8
    quantum: int = 64
    flash_share: int = 64
    draft_questions: int = 2

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("target_ms", 0), ("ingest_floor", 1), ("quantum", 1),
                            ("flash_share", 0), ("draft_questions", 0)):  # fmt: skip
            value = getattr(self, name)
            kinds, what = ((int, float), "") if name == "target_ms" else ((int,), "whole ")
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
                msg = f"StepLimits({name}={value!r}): expected a {what}number of at least {least}"
                raise WorkbenchError(msg)


class Scheduler:
    """Knows every work item's counts, decides steps; told what ran by ``ran``.

    Args:
        limits: sizes of a step.
        cost: predicts step times; without one, ingestion beside questions is four floors.
    """

    def __init__(self, limits: StepLimits | None = None, cost: CostModel | None = None) -> None:
        self.limits = limits or StepLimits()
        self.cost = cost
        self._questions: deque[Work] = deque()  # waiting
        self._flash: dict[int, deque[Work]] = {}  # waiting, by group, the longest waiting first
        self._group: deque[Work] = deque()  # waiting, of the group that is being let in
        self._active: dict[int, Work] = {}
        self._turns = Turns(self.limits.quantum)
        self._awaited = Turns(self.limits.quantum)
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
        item = Work(work, kind, prefill, max(1, min(tail, prefill)), cells, context, group)
        if kind is Kind.INGEST:
            self._active[work] = item
            for turns in (self._turns, self._awaited, self._background):
                turns.add(work)
        elif kind is Kind.QUESTION:
            self._questions.append(item)
        else:
            self._flash.setdefault(group, deque()).append(item)

    def set_backlog(
        self, work: int, tokens: int, *, awaited: int = 0, background: bool = False
    ) -> None:
        """A session's tokens waiting to be ingested, now.

        Args:
            work: the session's id.
            tokens: how many.
            awaited: the first so many of them are what somebody's question waits for.
            background: only in idle time.
        """
        item = self._active[work]
        item.prefill, item.awaited, item.background = tokens, min(awaited, tokens), background

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
            item.awaited = max(0, item.awaited - tokens)
            for turns in (self._turns, self._awaited, self._background):
                turns.ran()

    def remove(self, work: int) -> None:
        """Forget an item, wherever it stands; unknown ids are fine."""
        item = self._active.pop(work, None)
        if item is not None:
            if item.kind is Kind.INGEST:
                for turns in (self._turns, self._awaited, self._background):
                    turns.remove(work)
            return
        for queue in self._queues():
            for item in [w for w in queue if w.id == work]:
                queue.remove(item)
        self._flash = {group: queue for group, queue in self._flash.items() if queue}

    def hurry(self, work: int) -> None:
        """Somebody waits for the cells of a flash evaluation: if it has begun, it is a question."""
        item = self._active.get(work)
        if item is not None and item.kind is Kind.FLASH:
            item.kind = Kind.QUESTION

    def waiting(self, work: int) -> bool:
        """Whether an item is queued and not admitted yet."""
        return any(item.id == work for queue in self._queues() for item in queue)

    def _queues(self) -> list[deque[Work]]:
        return [self._questions, self._group, *self._flash.values()]

    @property
    def idle(self) -> bool:
        """Whether no item has anything to run."""
        return not any(self._queues()) and not any(w.wanted for w in self._active.values())

    # The decision.

    def plan(self, free_cells: int) -> Plan:
        """Decide the next step. Admission is remembered; everything else counts only once ``ran``.

        Args:
            free_cells: cells that branches may take now.
        """
        admitted = self._admit(free_cells)
        active = list(self._active.values())
        questions = [w for w in active if w.kind is Kind.QUESTION]
        flash = [w for w in active if w.kind is Kind.FLASH and w.wanted]
        kept = self._kept_for_ingestion(active)
        step = Filling(self.limits.tokens - kept)
        self._fill_decode(questions, step)
        self._fill_questions(questions, step)
        step.room += kept
        # No flash query runs beside a question, also one that waits for data. But one that waits
        # for cells waits for those of the evaluations under way: these go on.
        awaited = any(w.awaited for w in active)
        running = flash if self._questions or not (questions or awaited) else []
        limit, limited_by = self._ingest_limit(bool(questions or self._questions), running, step)
        self._fill_ingest(limit, step)
        asking = any(step.given(item, Phase.QUESTION) for item in questions)
        self._fill_flash(running, step, within=asking)
        spare = 0 if questions or self._questions else step.room
        for work, tokens in self._background.share(spare, self._background_backlog):
            step.add(self._active[work], tokens, Phase.BACKGROUND)
        if not step.tokens:
            return Plan(admitted)
        predicted_s = self.cost.predict(step.tokens, step.reads) if self.cost else 0.0
        return Plan(admitted, step.slices, limit, limited_by, predicted_s)

    def _admit(self, free_cells: int) -> tuple[int, ...]:
        """First come, first served, and no overtaking: whoever waits is reached.

        Flash evaluations are let in a session at a time, and only while no question is there. What
        a session asks for after its turn has begun is for its next one.
        """
        admitted: list[Work] = []

        def let_in(queue: deque[Work]) -> bool:
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
            while let_in(self._group) and self._flash:
                self._group = self._flash.pop(next(iter(self._flash)))
        return tuple(item.id for item in admitted)

    def _kept_for_ingestion(self, active: list[Work]) -> int:
        """Tokens that questions leave to ingestion, at most half of a step."""
        waiting = sum(w.prefill for w in active if w.kind is Kind.INGEST and not w.background)
        return min(waiting, self.limits.ingest_floor, self.limits.tokens // 2)

    def _fill_decode(self, questions: list[Work], step: Filling) -> None:
        """One token of each answer, and guessed ones while there is time to guess."""
        decoding = [w for w in questions if w.decoding]
        for item in decoding:
            step.add(item, 1, Phase.DECODE)
        if len(questions) <= self.limits.draft_questions and not self._questions:
            for item in decoding:
                step.add(item, min(item.drafts, step.room), Phase.DECODE)

    def _fill_questions(self, questions: list[Work], step: Filling) -> None:
        """Short ones whole and long ones a little, in order; then these more, as time allows."""
        prefilling = [w for w in questions if not w.decoding and w.prefill]
        # Whoever waits for cells, waits for those of this one: the sooner it ends the better.
        alone = len(questions) == 1
        for item in prefilling:
            short = alone or item.prefill <= self.limits.quantum
            fair = self.limits.quantum if short else self.limits.ingest_floor
            room = min(step.room, max(fair, item.least))
            if item is prefilling[0]:
                room = max(room, item.least)  # however full the step is: the first always gets on
            step.add(item, item.next_length(room), Phase.QUESTION)
        for item in prefilling:
            more = step.room if alone else min(step.room, self._within_target(step, item.context))
            given = step.given(item, Phase.QUESTION)
            step.add(item, item.next_length(given + more) - given, Phase.QUESTION)

    def _within_target(self, step: Filling, context: int) -> int:
        """How many more tokens keep a step within the time aimed at."""
        if self.cost is None:
            return 4 * self.limits.ingest_floor
        target_s = self.limits.target_ms / 1e3
        return self.cost.tokens_within(target_s, step.tokens, step.reads, context)

    def _ingest_limit(self, busy: bool, flash: list[Work], step: Filling) -> tuple[int, str]:
        """Ingestion's share of the step, and what decided it.

        Args:
            busy: whether a question is under way.
            flash: evaluations that run in this step.
            step: with all that questions take.
        """
        floor = min(self.limits.ingest_floor, self.limits.tokens)
        room = step.room
        if flash:
            wanted = sum(item.wanted for item in flash)
            room -= max(flash[0].least, min(wanted, self.limits.flash_share, room // 2))
        if not busy:
            return max(room, floor), "idle"
        limit = min(room, self._ingest_within_target(room, step))
        return (limit, "target") if limit > floor else (floor, "floor")

    def _ingest_within_target(self, room: int, step: Filling) -> int:
        """Tokens of ingestion that keep a step within the time aimed at, in the order of turns."""
        if self.cost is None:
            return self._within_target(step, 0)
        trial, context = Filling(room), 0
        trial.tokens, trial.reads = step.tokens, step.reads
        for work, tokens in self._turns.share(room, self._backlog):
            item = self._active[work]
            context = item.context
            if self._within_target(trial, context) < tokens:
                break
            trial.add(item, tokens, Phase.INGEST)
        return trial.tokens - step.tokens + self._within_target(trial, context)

    def _fill_ingest(self, limit: int, step: Filling) -> None:
        """Half of it first for what questions wait for, then turns of everyone."""
        given: dict[int, int] = {}
        for work, tokens in self._awaited.share((limit + 1) // 2, self._awaited_backlog):
            step.add(self._active[work], tokens, Phase.INGEST)
            given[work] = given.get(work, 0) + tokens

        def left(work: int) -> int:
            return self._backlog(work) - given.get(work, 0)

        for work, tokens in self._turns.share(limit - sum(given.values()), left):
            step.add(self._active[work], tokens, Phase.INGEST)

    def _awaited_backlog(self, work: int) -> int:
        return self._active[work].awaited

    def _backlog(self, work: int) -> int:
        item = self._active[work]
        return 0 if item.background else item.prefill

    def _background_backlog(self, work: int) -> int:
        item = self._active[work]
        return item.prefill if item.background else 0

    def _fill_flash(self, flash: list[Work], step: Filling, *, within: bool) -> None:
        """In order of admission, which is session by session.

        Unless it is to stay ``within`` the limit, since a question's own may be over it already,
        the first one runs even beyond: whatever else there is, it gets on.
        """
        for item in flash:
            first = item is flash[0] and not within
            room = max(step.room, item.least) if first else step.room
            step.add(item, item.next_length(room), Phase.FLASH)
