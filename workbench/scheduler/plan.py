"""The language of plans: which work gets how many tokens of the next step, and as what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """What a slice's tokens are for, in the order a step is filled."""

    DECODE = 0
    QUESTION = 1
    INGEST = 2
    FLASH = 3
    BACKGROUND = 4


@dataclass(frozen=True)
class Slice:
    """The next ``length`` tokens of one work item."""

    work: int
    length: int
    phase: Phase


@dataclass(frozen=True)
class Plan:
    """One step: which waiting work is admitted first, then the slices of the forward.

    Attributes:
        ingest_limit: tokens of ingestion the step might have taken.
        limited_by: why no more: "idle" (the step is all its own), "target" (the step time aimed at
            while a question is under way) or "floor" (the least that ingestion gets even then).
        predicted_s: seconds the step will take by the cost model; 0 without one.
    """

    admitted: tuple[int, ...] = ()
    slices: tuple[Slice, ...] = ()
    ingest_limit: int = 0
    limited_by: str = ""
    predicted_s: float = 0.0

    def tokens(self, phase: Phase) -> int:
        """Tokens of one phase."""
        return sum(s.length for s in self.slices if s.phase is phase)

    def __bool__(self) -> bool:
        return bool(self.slices)
