"""Sums and percentiles from events alone."""

import math

from workbench.events import Answered, Committed, FlashAnswered, Planned, RowsDropped, SessionOpened
from workbench.metrics import Metrics, percentile


def answered(ttft_ms, from_flash):
    return Answered(session="s", question="q", position=9, queue_ms=0, ttft_ms=ttft_ms,
                    total_ms=ttft_ms, num_tokens=1, from_flash=from_flash,
                    choices=())  # fmt: skip


def test_nearest_rank_percentiles():
    values = [float(i) for i in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (50, 95)
    assert percentile([3.0], 0.95) == 3 and math.isnan(percentile([], 0.5))


def test_counts():
    metrics = Metrics()
    for event in [
        SessionOpened(session="s", budget=9),
        Planned(step=1, decode=0, question=3, ingest=40, flash=0, num_slices=2, duration_s=0.1),
        Planned(step=2, decode=1, question=0, ingest=2, flash=5, num_slices=3, duration_s=0.1),
        Committed(session="s", version=1, position=42, rows=2, lag_s=0.25),
        answered(5.0, False),
        answered(0.1, True),
        FlashAnswered(session="s", flash="f", text="up", confidence=0.5, version=1, position=42,
                      total_ms=1, changed=True),
        RowsDropped(session="s", rows=7),
    ]:  # fmt: skip
        metrics.take(event)
    assert (metrics.steps, metrics.ingested_tokens, metrics.ticks) == (2, 42, 1)
    assert (metrics.answers, metrics.flash_hits, metrics.flash_evaluations) == (2, 1, 1)
    assert metrics.dropped_rows == 7
    # A flash hit is no measure of how long a computed answer takes.
    assert list(metrics.ttft_ms) == [5.0] and list(metrics.lag_s) == [0.25]
