"""Arrivals sent in real time from one thread, and how late they were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from workbench.bench.sessions.arrivals import Arrival

LEAD_S = 0.1  # before the first arrival


class Pace:
    """A clock that begins shortly after it is made; ``due`` things are sent when it reaches them.

    Attributes:
        late_s: for each arrival, how long after it was due it was sent. Latencies count from when
            it was due, so this is part of them; it says how much of them is the sender's own.
    """

    def __init__(self) -> None:
        self._zero = time.perf_counter() + LEAD_S
        self.late_s: list[float] = []

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._zero

    def send(
        self,
        due: Sequence[Arrival],
        send: Callable[[int, Arrival], None],
        seconds: float,
        *,
        progress: bool = True,
    ) -> None:
        """Call ``send(index, arrival)`` for each when it is due; returns after ``seconds``.

        A call that takes longer than until the next one is due makes that one late, no more: none
        is left out.
        """
        with tqdm(total=round(seconds), unit=" s", disable=not progress) as bar:
            for index, arrival in enumerate(due):
                self._sleep(arrival.at, bar)
                self.late_s.append(self.now - arrival.at)
                send(index, arrival)
            self._sleep(seconds, bar)
            bar.update(bar.total - bar.n)

    def _sleep(self, until: float, bar: tqdm) -> None:
        while (left := until - self.now) > 0:
            bar.update(max(0, int(self.now) - bar.n))
            time.sleep(min(left, 1.0))
