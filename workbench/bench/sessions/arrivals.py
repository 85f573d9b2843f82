"""Made-up arrivals for many sessions: when ticks come and questions are due, the same per seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from workbench.errors import WorkbenchError


class What(Enum):
    """What arrives."""

    TICK = "tick"
    OPEN = "open question"
    CHOICES = "closed question"


class Arrival(NamedTuple):
    """Something that is due ``at`` so many seconds after the beginning, for one session."""

    at: float
    session: int
    what: What


@dataclass(frozen=True)
class Workload:
    """What happens to how many sessions; the arrivals depend on nothing else.

    Attributes:
        sessions: how many are open.
        seconds: how long data and questions come.
        tick: seconds between a session's ticks, on average.
        burst: ticks that come at the same moment; the pause before the next is as much longer.
        together: whether all sessions tick at the same moments, or each at its own.
        tokens_per_tick: of the data; a live run pushes as many bars as come closest.
        context: tokens a session holds when it begins.
        questions_per_second: to all sessions together, at random moments (a Poisson process).
        question_tokens: of a question, its template's end included.
        answer_tokens: of an open answer; none ends early.
        choices_share: share of the questions that choose between two answers.
        flash: standing questions per session, each a choice between two answers.
        seed: of everything that is random.
    """

    sessions: int = 8
    seconds: float = 60.0
    tick: float = 1.0
    burst: int = 1
    together: bool = False
    tokens_per_tick: int = 33
    context: int = 1024
    questions_per_second: float = 0.5
    question_tokens: int = 16
    answer_tokens: int = 8
    choices_share: float = 0.25
    flash: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sessions", "burst", "tokens_per_tick", "question_tokens", "answer_tokens"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        for name in ("seconds", "tick"):
            self._expect(name, 0 < getattr(self, name) < float("inf"), "more than 0")
        for name in ("context", "questions_per_second", "flash"):
            self._expect(name, 0 <= getattr(self, name) < float("inf"), "at least 0")
        self._expect("choices_share", 0 <= self.choices_share <= 1, "a share from 0 to 1")

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            msg = f"{name} {getattr(self, name)}: expected {expected}"
            raise WorkbenchError(msg)


def arrivals(workload: Workload) -> list[Arrival]:
    """Everything that arrives, in order of time."""
    streams = [_ticks(workload, session) for session in range(workload.sessions)]
    return sorted(itertools.chain(_questions(workload), *streams), key=lambda arrival: arrival.at)


def _ticks(workload: Workload, session: int) -> Iterator[Arrival]:
    period = workload.tick * workload.burst
    # Streams of random numbers of their own: one more question moves no tick.
    phase = 0.0 if workload.together else random.Random(f"{workload.seed} {session}").random()
    for index in itertools.count():
        at = (index + phase) * period
        if at >= workload.seconds:
            return
        yield from itertools.repeat(Arrival(at, session, What.TICK), workload.burst)


def _questions(workload: Workload) -> Iterator[Arrival]:
    rng, at = random.Random(f"{workload.seed} questions"), 0.0
    while workload.questions_per_second:
        at += rng.expovariate(workload.questions_per_second)
        if at >= workload.seconds:
            return
        session = rng.randrange(workload.sessions)
        is_closed = rng.random() < workload.choices_share
        yield Arrival(at, session, What.CHOICES if is_closed else What.OPEN)


@dataclass(frozen=True)
class Sizes:
    """What the arrivals weigh, in tokens: as asked for, or as a live run found them.

    Attributes:
        ticks: tokens of each tick, in order of arrival.
        contexts: tokens each session holds when it begins.
        question, flash: tokens of a question and of a standing one.
        more_choices: tokens of a closed question's answers beyond the first of each.
        accepted: for each question, in order of arrival, the tokens of its answer that were guessed
            right and so needed no forward of their own.
    """

    ticks: Sequence[int]
    contexts: Sequence[int]
    question: int
    flash: int
    more_choices: int
    accepted: Sequence[int]

    @classmethod
    def nominal(cls, workload: Workload, due: Sequence[Arrival]) -> Sizes:
        """Just what the workload asks for."""
        num_ticks = sum(arrival.what is What.TICK for arrival in due)
        return cls(
            ticks=[workload.tokens_per_tick] * num_ticks,
            contexts=[workload.context] * workload.sessions,
            question=workload.question_tokens,
            flash=workload.question_tokens,
            more_choices=0,
            accepted=[0] * (len(due) - num_ticks),
        )
