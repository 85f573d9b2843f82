"""What a run is measured in, from one log that every kind of run fills: latencies, ages, work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from workbench.bench.sessions.arrivals import Arrival, What
from workbench.metrics import percentile

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
Times = dict[str, float | int | None]


class FlashDone(NamedTuple):
    """A standing question has an answer, as of ``version``: so many of the run's ticks."""

    at: float
    session: int
    query: int
    version: int


@dataclass
class Log:
    """What happened when, in seconds since the beginning.

    Attributes:
        seconds: how long things arrive; only until then are ages and utilisation measured.
        first: when an answer had its first token, by the question's index among the arrivals.
        done: when a tick was visible or an answer complete, by its index among the arrivals.
        flash: evaluations that ended, in order of time.
        tokens: computed in all, by what they were for.
        steps, busy_s: forward steps in all, and the seconds of them that lie within ``seconds``.
        ended: when nothing was under way any more, or nobody waited any longer.
    """

    seconds: float
    first: dict[int, float] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)
    flash: list[FlashDone] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    busy_s: float = 0.0
    ended: float = 0.0

    def close(self, num_due: int, now: float) -> None:
        """The run is over: when the last of ``num_due`` things was done, or ``now`` if not all are.

        It is never over before ``seconds``.
        """
        all_done = len(self.done) == num_due
        self.ended = max([self.seconds, *self.done.values()]) if all_done else now

    def ran(self, until: float, seconds: float, **tokens: int) -> None:
        """A step has just ended that took so long and computed so many tokens of each kind."""
        self.steps += 1
        self.busy_s += max(0.0, min(until, self.seconds) - max(until - seconds, 0.0))
        for kind, num in tokens.items():
            self.tokens[kind] += num


def summary(due: Sequence[Arrival], log: Log, *, sessions: int, flash: int) -> dict[str, Any]:
    """The quantities by name, as plain values ready for JSON.

    Latencies count from the moment something was due, whether or not it could be sent then; what
    had not ended when the run did counts with the time it had waited.

    Args:
        due: what arrived, in order.
        log: what became of it.
        sessions, flash: how many sessions, and standing questions of each.
    """

    def waits(when: dict[int, float], *what: What) -> Times:
        return _times(
            (when.get(index, log.ended) - arrival.at) * 1e3
            for index, arrival in enumerate(due)
            if arrival.what in what
        )

    def ages(*, only_visible: bool) -> Times:
        return _weighted(_ages(due, log, sessions, flash, only_visible=only_visible))

    return {
        "ask_ms": waits(log.done, What.OPEN, What.CHOICES),
        "ask_open_ms": waits(log.done, What.OPEN),
        "ask_choices_ms": waits(log.done, What.CHOICES),
        "ttft_ms": waits(log.first, What.OPEN, What.CHOICES),
        "lag_ms": waits(log.done, What.TICK),
        "flash_age": ages(only_visible=True),
        "flash_age_arrived": ages(only_visible=False),
        "flash_evaluations": len(log.flash),
        "unfinished": sum(index not in log.done for index in range(len(due))),
        "utilisation": log.busy_s / log.seconds,
        "steps": log.steps,
        "tokens": dict(log.tokens),
        "overrun_s": max(0.0, log.ended - log.seconds),
    }


def _times(values: Iterable[float]) -> Times:
    """Percentiles by nearest rank, the largest, and how many there are.

    Of too few values a percentile would be the largest by another name, and is None.
    """
    found = sorted(values)
    enough = {
        name: bool(found) and (share == 0.5 or len(found) * (1 - share) >= 1 - 1e-9)
        for name, share in SHARES.items()
    }
    return {
        "count": len(found),
        **{
            name: percentile(found, share) if enough[name] else None
            for name, share in SHARES.items()
        },
        "max": found[-1] if found else None,
    }


def _weighted(seconds: dict[int, float]) -> Times:
    """The same of ages that lasted ``seconds`` each: the least age not exceeded for that share."""
    total = sum(seconds.values())

    def at(share: float) -> int | None:
        passed = 0.0
        for age in sorted(seconds):
            passed += seconds[age]
            if passed >= share * total * (1 - 1e-9):  # rounding of the sum must not count
                return age
        return None

    return {
        "seconds": total,
        **{name: at(share) for name, share in SHARES.items()},
        "max": max(seconds, default=None),
    }


def _ages(
    due: Sequence[Arrival], log: Log, sessions: int, flash: int, *, only_visible: bool
) -> dict[int, float]:
    """Seconds that the latest answers of all standing questions were so many ticks old.

    Args:
        only_visible: count the ticks that a question sees (as `FlashQuery.age` does); else all
            that have arrived, so that one who reads late does not look fresh.
    """
    changes: list[tuple[float, int, FlashDone | None]] = [(d.at, d.session, d) for d in log.flash]
    for index, arrival in enumerate(due):
        if arrival.what is What.TICK:
            at = log.done.get(index) if only_visible else arrival.at
            if at is not None:
                changes.append((at, arrival.session, None))
    changes.sort(key=lambda change: change[0])
    total: dict[int, float] = defaultdict(float)
    ages = [_Ages(flash, total) for _ in range(sessions)]
    for at, session, answer in changes:
        if at >= log.seconds:
            break
        ages[session].advance(at)
        if answer is None:
            ages[session].ticks += 1
        else:
            ages[session].versions[answer.query] = answer.version
    for each in ages:
        each.advance(log.seconds)
    return total


class _Ages:
    """One session at a moment: its ticks so far, and what its queries were answered as of."""

    def __init__(self, queries: int, total: dict[int, float]) -> None:
        self.ticks = 0
        self.versions = [0] * queries
        self._at = 0.0
        self._total = total

    def advance(self, at: float) -> None:
        """Nothing changed until ``at``: add the time to the present ages."""
        if at > self._at:  # an age that never lasted is none
            for version in self.versions:
                self._total[self.ticks - version] += at - self._at
            self._at = at
