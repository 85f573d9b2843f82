"""Who holds which cells at one moment: the pool as something to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.cells.sequence import Sequence
from workbench.engine.core import Core
from workbench.engine.work import Ingest, Question, Rebuild
from workbench.scheduler.scheduler import Kind


@dataclass(frozen=True)
class Holding:
    """One run of cells and what holds it; cells in several holdings are shared.

    Attributes:
        start, length: the cells, as places in the pool.
        filled: how many of them, from the start, have been computed.
        owner: the session's name; "" for what belongs to none.
        kind: "session", "next window" (being rebuilt), "old window" (until its questions have
            ended), "question", "flash" or "prompt" (of an ended stateless request, kept while
            nobody needs the cells).
    """

    start: int
    length: int
    filled: int
    owner: str
    kind: str


def holdings(core: Core) -> list[Holding]:
    """Every run of every living sequence; in the engine thread."""
    found: list[Holding] = []
    for work in core.works.values():
        for sequence, owner, kind in _sequences(work):
            found += _runs(sequence, owner, kind)
    for line in core.parked:
        found += _runs(line.sequence, "", "prompt")
    return found


def _sequences(work: Ingest | Rebuild | Question) -> Iterator[tuple[Sequence, str, str]]:
    if isinstance(work, Rebuild):
        yield work.line.sequence, work.session.name, "next window"
    elif isinstance(work, Ingest):
        yield work.line.sequence, work.name, "session"
        for retired in work.window.retired if work.window is not None else ():
            yield retired.sequence, work.name, "old window"
    else:
        owner = work.session.name if work.session is not None else ""
        kind = "flash" if work.kind is Kind.FLASH else "question"
        for sequence in [*([work.branch] if work.branch else []), *work.choice_branches]:
            yield sequence, owner, kind


def _runs(sequence: Sequence, owner: str, kind: str) -> Iterator[Holding]:
    for run in sequence.runs(sequence.capacity):
        filled = min(max(sequence.length - run.position, 0), run.length)
        yield Holding(run.start, run.length, filled, owner, kind)
