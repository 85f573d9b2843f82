"""What the parts of an engine share: the model, the pool, the scheduler, and who works on what."""

from __future__ import annotations

import itertools

from workbench.cells.line import STRETCH, Line
from workbench.cells.pool import CellPool, Span
from workbench.cells.prefix import PrefixIndex
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.cells.warm import Warmer
from workbench.engine.model import Decoder
from workbench.engine.tokens import Tokens
from workbench.engine.work import Ingest, Question, Rebuild
from workbench.events import Events
from workbench.scheduler.scheduler import Scheduler


class Core:
    """State of the engine thread; only ``events`` and ``next_id`` are for other threads as well.

    Attributes:
        watermark: cells that no session may be promised, so that questions always find room.
        scratch: cells that questions under way may use, of the watermark's.
        num_steps: steps planned so far.
        works: everything under way, by id; ``sessions`` the open sessions among it.
        parked: lines of ended stateless requests, least lately used first: their cells are free
            for the asking, and until somebody asks they spare equal prompts their prefill.
    """

    def __init__(
        self, decoder: Decoder, tokens: Tokens, num_cells: int, watermark: int, scheduler: Scheduler
    ) -> None:
        self.decoder = decoder
        self.tokens = tokens
        self.pool = CellPool(num_cells)
        self.cells = CellTensors(decoder.layers, num_cells, decoder.dtype, decoder.device)
        self.warmer = Warmer(self.cells, num_cells)
        self.watermark = watermark
        self.scratch = 0
        self.num_steps = 0
        self.scheduler = scheduler
        self.events = Events()
        self.prefixes = PrefixIndex()
        self.works: dict[int, Ingest | Rebuild | Question] = {}
        self.sessions: dict[int, Ingest] = {}
        self.parked: dict[Line, None] = {}
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        """A fresh work id, from any thread."""
        return next(self._ids)

    def reclaim(self, num_cells: int) -> None:
        """Let go of parked lines, the least lately used first, until so many cells are free."""
        while self.parked and self.pool.num_free < num_cells:
            self.unpark(next(iter(self.parked)))

    def park(self, line: Line) -> None:
        """Keep the computed cells of a line that nobody needs any more, while there is room."""
        computed = line.sequence.branch(line.sequence.length)
        line.sequence.drop()
        line.sequence = computed
        if line.computed < STRETCH:
            self.prefixes.remove(line)
            computed.drop()
        else:
            self.parked[line] = None

    def touch(self, line: Line) -> None:
        """A line was of use: if it is parked, it is the last to go."""
        if line in self.parked:
            self.parked[line] = self.parked.pop(line)

    def unpark(self, line: Line) -> None:
        """Free a parked line's cells."""
        del self.parked[line]
        self.prefixes.remove(line)
        line.sequence.drop()

    def prefill_seconds(self, num_tokens: int, start: int = 0) -> float:
        """How long a prefill of so many tokens after ``start`` will take, by the cost model."""
        cost, chunk = self.scheduler.cost, self.scheduler.limits.tokens
        if cost is None:
            return 0.0
        total = 0.0
        for first in range(start, start + num_tokens, chunk):
            tokens = min(chunk, start + num_tokens - first)
            total += cost.predict(tokens, tokens * (first + tokens / 2))
        return total

    def held_spans(self) -> list[Span]:
        """Every span that every living sequence holds, for ``pool.check``."""
        sequences: list[Sequence] = [line.sequence for line in self.parked]
        for work in self.works.values():
            if isinstance(work, Question):
                sequences += [*([work.branch] if work.branch else []), *work.choice_branches]
            else:
                sequences.append(work.line.sequence)
            if isinstance(work, Ingest) and work.window is not None:
                sequences += [retired.sequence for retired in work.window.retired]
        return [span for sequence in sequences for span in sequence.spans]
