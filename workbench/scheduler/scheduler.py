"""Fill each step: decode of questions, their prefill, ingestion, then flash queries.

Questions and flash evaluations hold scratch cells from admission to their end and never wait for
more, so admitted work always completes; work that does not fit waits without holding anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from workbench.scheduler.plan import Phase, Plan, Slice


class Kind(Enum):
    """What a work item is."""

    INGEST = "ingest"  # a session's data plane: never admitted, its cells are its budget
    QUESTION = "question"
    FLASH = "flash"


@dataclass(frozen=True)
class StepLimits:
    """Sizes of a step, in tokens.

    Attributes:
        tokens: the most a step takes, unless one indivisible tail is longer.
        ingest_beside_question: ingestion's share while any question is under way, so that a
            question's steps stay short.
        flash_share: kept for flash queries when ingestion could fill the whole step.
    """

    tokens: int = 256
    ingest_beside_question: int = 32
    flash_share: int = 64


@dataclass
class _Work:
    id: int
    kind: Kind
    prefill: int = 0  # tokens known and not yet run
    tail: int = 1  # the last so many of them run in one step (a question's end with its choices)
    cells: int = 0  # scratch cells to admit it with
    decoding: bool = False

    def next_length(self, room: int) -> int:
        """How many tokens to run in a step with ``room`` left; 0 if none fit."""
        if self.prefill <= max(room, 0) or self.prefill == self.tail:
            return self.prefill
        return max(0, min(room, self.prefill - self.tail))


class Scheduler:
    """Knows every work item's counts, decides steps; told what ran by ``ran``."""

    def __init__(self, limits: StepLimits | None = None) -> None:
        self.limits = limits or StepLimits()
        self._waiting: dict[Kind, deque[_Work]] = {Kind.QUESTION: deque(), Kind.FLASH: deque()}
        self._active: dict[int, _Work] = {}
        self._ingest: deque[_Work] = deque()  # rotates, so that no session is always first

    def add(
        self, work: int, kind: Kind, *, prefill: int = 0, tail: int = 1, cells: int = 0
    ) -> None:
        """A new item: a session's ingestion (empty so far), a question or a flash evaluation.

        Args:
            work: its id, unique among living items.
            kind: what it is.
            prefill: tokens to run before its first result.
            tail: how many of the last of them must run in one step.
            cells: scratch cells it needs from admission to its end.
        """
        item = _Work(work, kind, prefill, max(1, min(tail, prefill)), cells)
        if kind is Kind.INGEST:
            self._active[work] = item
            self._ingest.append(item)
        else:
            self._waiting[kind].append(item)

    def set_backlog(self, work: int, tokens: int) -> None:
        """A session's tokens waiting to be ingested, now."""
        self._active[work].prefill = tokens

    def set_decoding(self, work: int) -> None:
        """From now on the item runs one token a step, until removed."""
        self._active[work].decoding = True

    def ran(self, work: int, tokens: int) -> None:
        """A slice has run: so many fewer are left to prefill."""
        item = self._active[work]
        item.prefill = max(0, item.prefill - tokens)

    def remove(self, work: int) -> None:
        """Forget an item, wherever it stands; unknown ids are fine."""
        item = self._active.pop(work, None)
        if item is not None and item.kind is Kind.INGEST:
            self._ingest.remove(item)
        for queue in self._waiting.values():
            for item in [w for w in queue if w.id == work]:
                queue.remove(item)

    def plan(self, free_cells: int) -> Plan:
        """Decide the next step. Admission is remembered; tokens count only once ``ran``.

        Args:
            free_cells: cells that branches may take now.
        """
        admitted = self._admit(Kind.QUESTION, free_cells)
        free_cells -= sum(w.cells for w in admitted)
        # A waiting question has the first claim on cells: no flash evaluation is let in before it.
        if not self._waiting[Kind.QUESTION]:
            admitted += self._admit(Kind.FLASH, free_cells)

        slices: list[Slice] = []
        room = self.limits.tokens
        questions = [w for w in self._active.values() if w.kind is Kind.QUESTION]
        for item in questions:
            if item.decoding:
                slices.append(Slice(item.id, 1, Phase.DECODE))
                room -= 1
        for item in questions:
            if not item.decoding and (length := item.next_length(room)):
                slices.append(Slice(item.id, length, Phase.QUESTION))
                room -= length
        flash = [w for w in self._active.values() if w.kind is Kind.FLASH]
        share = room if not flash else max(room - self.limits.flash_share, room // 2)
        if questions:
            share = min(share, self.limits.ingest_beside_question)
        room -= self._fill_ingest(share, slices)
        if not questions:
            self._fill_flash(flash, room, slices)
        return Plan(tuple(w.id for w in admitted), tuple(slices))

    def _admit(self, kind: Kind, free_cells: int) -> list[_Work]:
        """First come, first served, and no overtaking: whoever waits is reached."""
        queue = self._waiting[kind]
        admitted = []
        while queue and queue[0].cells <= free_cells:
            item = queue.popleft()
            free_cells -= item.cells
            self._active[item.id] = item
            admitted.append(item)
        return admitted

    def _fill_ingest(self, share: int, slices: list[Slice]) -> int:
        """Split ``share`` tokens between the sessions that have some to ingest; returns the sum."""
        left = {w.id: w.prefill for w in self._ingest if w.prefill}
        if not left or share <= 0:
            return 0
        given = dict.fromkeys(left, 0)
        room = share
        while room > 0 and any(left.values()):
            fair = max(1, room // sum(1 for n in left.values() if n))
            for work, waiting in left.items():
                length = min(fair, waiting, room)
                given[work] += length
                left[work] -= length
                room -= length
        slices.extend(Slice(work, n, Phase.INGEST) for work, n in given.items() if n)
        self._ingest.rotate(-1)
        return share - room

    def _fill_flash(self, flash: list[_Work], room: int, slices: list[Slice]) -> None:
        for item in flash:
            length = 1 if item.decoding else item.next_length(room)
            # The first one runs even over the limit: an idle engine must make progress.
            if length and (length <= room or not slices):
                slices.append(Slice(item.id, length, Phase.FLASH))
                room -= length

    @property
    def idle(self) -> bool:
        """Whether no item has anything to run."""
        return not any(self._waiting.values()) and not any(
            w.prefill or w.decoding for w in self._active.values()
        )
