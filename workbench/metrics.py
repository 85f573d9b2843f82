"""Counts and percentiles of an engine, all computed from its events."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from workbench.events import (
    Answered,
    Behind,
    Committed,
    Event,
    Evicted,
    FlashAnswered,
    Planned,
    Rebuilt,
    Returned,
    RowsDropped,
    Shared,
)

KEPT = 1000  # latest values a percentile is taken over


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds and has done; times over the latest 1,000 of their kind.

    Attributes:
        ingested_tokens, background_tokens: computed for sessions as their rows came, and in idle
            time (windows that were rebuilt, evicted sessions that returned).
        shared_tokens: that sessions needed and others had computed already.
        behind: how often a full session's rows had to wait for its window.
        drafted_tokens, accepted_tokens: guessed for answers, and guessed right.
    """

    model: str
    dtype: str
    device: str
    num_cells: int
    free_cells: int
    promised_cells: dict[str, int]
    kv_bytes: int
    steps: int
    ingested_tokens: int
    background_tokens: int
    shared_tokens: int
    ticks: int
    dropped_rows: int
    answers: int
    flash_hits: int
    flash_evaluations: int
    evictions: int
    returns: int
    rebuilds: int
    behind: int
    drafted_tokens: int
    accepted_tokens: int
    ttft_ms_p50: float
    ttft_ms_p95: float
    lag_s_p50: float
    lag_s_p95: float


class Metrics:
    """Subscribes to an engine's events and keeps the sums."""

    def __init__(self) -> None:
        self.steps = self.ingested_tokens = self.ticks = self.dropped_rows = 0
        self.answers = self.flash_hits = self.flash_evaluations = 0
        self.background_tokens = self.shared_tokens = 0
        self.evictions = self.returns = self.rebuilds = self.behind = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.ttft_ms: deque[float] = deque(maxlen=KEPT)
        self.lag_s: deque[float] = deque(maxlen=KEPT)

    def take(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Planned():
                self.steps += 1
                self.ingested_tokens += event.ingest
                self.background_tokens += event.background
            case Shared():
                self.shared_tokens += event.tokens
            case Committed():
                self.ticks += 1
                self.lag_s.append(event.lag_s)
            case Answered():
                self.answers += 1
                self.drafted_tokens += event.drafted
                self.accepted_tokens += event.accepted
                if event.from_flash:
                    self.flash_hits += 1
                else:
                    self.ttft_ms.append(event.ttft_ms)
            case FlashAnswered():
                self.flash_evaluations += 1
            case RowsDropped():
                self.dropped_rows += event.rows
            case Evicted():
                self.evictions += 1
            case Returned():
                self.returns += 1
            case Rebuilt():
                self.rebuilds += 1
            case Behind():
                self.behind += 1
            case _:
                pass
