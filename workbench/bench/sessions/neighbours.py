"""How much of the machine's processors others used during a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
QUIET = 0.05  # share of the processors' time that a machine's own housekeeping may take


class Neighbours:
    """Counts from when it is made: all processors' busy time, less this process's own."""

    def __init__(self) -> None:
        self._before = _times()
        self._own = time.process_time()

    def share(self) -> float | None:
        """Share of all processors' time that others used so far; None where it is not known."""
        own, now = time.process_time() - self._own, _times()
        if self._before is None or now is None or now[1] <= self._before[1]:
            return None
        busy, total = now[0] - self._before[0], now[1] - self._before[1]
        return min(1.0, max(0.0, busy - own) / total)


def _times() -> tuple[float, float] | None:
    """Seconds that all processors were busy since the machine started, and seconds in all."""
    if not STAT.exists():
        return None
    # user nice system idle iowait irq softirq steal (proc_stat(5)); what follows is counted in user
    ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    total = sum(ticks)
    per_second = os.sysconf("SC_CLK_TCK")
    return (total - ticks[3] - ticks[4]) / per_second, total / per_second
