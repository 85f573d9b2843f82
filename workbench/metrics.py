"""Counts and percentiles of an engine, all computed from its events."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from workbench.events import Answered, Committed, Event, FlashAnswered, Planned, RowsDropped

KEPT = 1000  # latest values a percentile is taken over


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds and has done; times over the latest 1,000 of their kind."""

    model: str
    dtype: str
    device: str
    num_cells: int
    free_cells: int
    promised_cells: dict[str, int]
    kv_bytes: int
    steps: int
    ingested_tokens: int
    ticks: int
    dropped_rows: int
    answers: int
    flash_hits: int
    flash_evaluations: int
    ttft_ms_p50: float
    ttft_ms_p95: float
    lag_s_p50: float
    lag_s_p95: float


class Metrics:
    """Subscribes to an engine's events and keeps the sums."""

    def __init__(self) -> None:
        self.steps = self.ingested_tokens = self.ticks = self.dropped_rows = 0
        self.answers = self.flash_hits = self.flash_evaluations = 0
        self.ttft_ms: deque[float] = deque(maxlen=KEPT)
        self.lag_s: deque[float] = deque(maxlen=KEPT)

    def take(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Planned():
                self.steps += 1
                self.ingested_tokens += event.ingest
            case Committed():
                self.ticks += 1
                self.lag_s.append(event.lag_s)
            case Answered():
                self.answers += 1
                if event.from_flash:
                    self.flash_hits += 1
                else:
                    self.ttft_ms.append(event.ttft_ms)
            case FlashAnswered():
                self.flash_evaluations += 1
            case RowsDropped():
                self.dropped_rows += event.rows
            case _:
                pass
