"""A step while it is being filled, and what the scheduler knows of each work item."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from workbench.scheduler.plan import Phase, Slice


class Kind(Enum):
    """What a work item is."""

    INGEST = "ingest"  # a session's data plane: never admitted, its cells are its budget
    QUESTION = "question"
    FLASH = "flash"


@dataclass(eq=False)
class Work:
    """A work item's counts."""

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
    awaited: int = 0  # of its prefill, the first so many are what somebody's question waits for

    @property
    def wanted(self) -> int:
        """Tokens it could run now."""
        return 1 if self.decoding else self.prefill

    @property
    def least(self) -> int:
        """The fewest tokens that get it on: one, or the tail once nothing else is left."""
        return self.prefill if not self.decoding and self.prefill <= self.tail else 1

    def next_length(self, room: int) -> int:
        """How many tokens to run in a step with ``room`` left; 0 if none fit."""
        if self.wanted <= room:
            return self.wanted
        return 0 if self.decoding else max(0, min(room, self.prefill - self.tail))


class Filling:
    """A step as it is being filled; one item may be given tokens several times."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tokens = 0
        self.reads = 0  # cells, summed over the tokens
        self._given: dict[tuple[int, Phase], int] = {}

    def add(self, item: Work, length: int, phase: Phase) -> None:
        """Give an item so many tokens more."""
        if length <= 0:
            return
        key = item.id, phase
        self._given[key] = self._given.get(key, 0) + length
        self.room -= length
        self.tokens += length
        self.reads += length * item.context

    def given(self, item: Work, phase: Phase) -> int:
        """Tokens an item has been given as this."""
        return self._given.get((item.id, phase), 0)

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The step so far, in the order it was filled."""
        return tuple(Slice(work, length, phase) for (work, phase), length in self._given.items())
