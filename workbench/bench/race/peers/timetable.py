"""What becomes due when in the mix of many sessions, and a peer's notes of what it did when.

Standard library only, as `wire`. Every latency counts from the moment something was due: a loop
that is late because it was busy pays for that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

LEAD_S = 0.2  # from the beginning to time 0
LONGEST_WAIT_S = 0.5  # between two looks at the clock

BAR, QUESTION = "bar", "question"


class Event:
    """Something that is due.

    Attributes:
        index: among all events, which are in order of time.
        at: seconds after the beginning.
        session: whose.
        is_bar: a bar, or else a question.
        ids: its tokens.
        words: a question's text.
    """

    def __init__(self, index: int, sent: dict[str, Any]) -> None:
        self.index = index
        self.at: float = sent["at"]
        self.session: int = sent["session"]
        self.is_bar: bool = sent["kind"] == BAR
        self.ids: list[int] = sent["ids"]
        self.words: str = sent["words"]


class Timetable:
    """The events of one run, a clock, and when each was done.

    Marks may be set from any thread; ``take`` and ``wait`` are for the one that serves.

    Attributes:
        contexts: by session, the tokens that it holds before anything is due.
        events: in order of time.
        tokens: of every answer.
        scored: log-probabilities are wanted.
        zero: `time.perf_counter` at time 0, set by ``begin``.
    """

    def __init__(self, command: dict[str, Any]) -> None:
        self.contexts: list[list[int]] = command["contexts"]
        self.events = [Event(index, sent) for index, sent in enumerate(command["events"])]
        self.tokens: int = command["tokens"]
        self.scored: bool = command["scored"]
        self.zero = 0.0
        self._seconds: float = command["seconds"]
        self._grace: float = command["grace"]
        self._taken = 0
        self._first: dict[int, float] = {}  # by index, seconds after the beginning
        self._last: dict[int, float] = {}
        self._kept: set[int] = set()
        self._positions: dict[int, int] = {}
        self._ids: dict[int, list[int]] = {event.index: [] for event in self.events}
        self._logprobs: dict[int, list[float]] = {event.index: [] for event in self.events}
        self._busy = 0.0
        self._ended = 0.0

    # The clock.

    def begin(self) -> None:
        """Time 0 is in a moment."""
        self.zero = time.perf_counter() + LEAD_S
        self._counting = threading.Thread(target=self._count, daemon=True)
        self._counting.start()

    @property
    def now(self) -> float:
        """Seconds after the beginning."""
        return time.perf_counter() - self.zero

    def take(self) -> list[Event]:
        """What has become due and was not taken yet, in order."""
        first, now = self._taken, self.now
        while self._taken < len(self.events) and self.events[self._taken].at <= now:
            self._taken += 1
        return self.events[first : self._taken]

    def wait(self) -> None:
        """Sleep until something is due, or a moment if that is far off."""
        until = self._seconds + self._grace
        if self._taken < len(self.events):
            until = self.events[self._taken].at
        time.sleep(min(max(until - self.now, 0.0), LONGEST_WAIT_S))

    @property
    def sent(self) -> bool:
        """Whether everything was taken."""
        return self._taken == len(self.events)

    @property
    def over(self) -> bool:
        """Whether everything is done, or nobody waits any longer."""
        done = len(self._last) + len(self._kept) == len(self.events)
        if not self._ended and (done or self.now >= self._seconds + self._grace):
            self._ended = self.now
        return bool(self._ended)

    # What was done.

    def keep(self, bar: Event) -> None:
        """It is remembered; it will be read with the next question."""
        self._kept.add(bar.index)

    def visible(self, bar: Event) -> None:
        """A bar has been read."""
        if not self._ended:
            self._last[bar.index] = self.now

    def sees(self, question: Event, position: int) -> None:
        """A question has so many tokens of its session before it."""
        self._positions[question.index] = position

    def answered(
        self,
        question: Event,
        ids: Sequence[int],
        logprobs: Sequence[float] = (),
        first_at: float | None = None,
    ) -> bool:
        """More tokens of an answer; ``first_at`` is another `time.perf_counter` of the first one.

        Returns:
            Whether that was the last of them.
        """
        if self._ended or not ids:
            return False
        now, index = self.now, question.index
        self._first.setdefault(index, now if first_at is None else first_at - self.zero)
        self._ids[index] += ids
        self._logprobs[index] += logprobs
        if len(self._ids[index]) < self.tokens:
            return False
        self._last[index] = now
        return True

    def result(self) -> dict[str, Any]:
        """Each event's milliseconds from when it was due, None for what had not happened."""

        def after(at: float | None, event: Event) -> float | None:
            return None if at is None else (at - event.at) * 1e3

        self._counting.join()  # the window may last longer than the work
        return {
            "done": [
                {
                    "first_ms": after(self._first.get(event.index), event),
                    "last_ms": after(self._last.get(event.index), event),
                    "kept": event.index in self._kept,
                    "position": self._positions.get(event.index),
                    "ids": self._ids[event.index],
                    "logprobs": self._logprobs[event.index] if self.scored else None,
                }
                for event in self.events
            ],
            "ended_s": self._ended,
            "busy": self._busy,
        }

    def _count(self) -> None:
        """Processor seconds per second that this process uses, all its threads together."""
        time.sleep(max(0.0, -self.now))
        began, before = self.now, _processor_seconds()
        time.sleep(max(0.0, self._seconds - self.now))
        passed = self.now - began
        self._busy = (_processor_seconds() - before) / passed if passed > 0 else 0.0


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system
