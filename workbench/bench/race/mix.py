"""Many sessions at once: bars and questions become due in real time, and each peer does its best.

A peer has a process of its own for this. Before anything counts, a rehearsal compares its answers
with the judge's. Engines that are on the machine together take turns, run by run.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.bench.contenders import QUESTION_TOKENS
from workbench.bench.race.course import Course
from workbench.bench.race.entry import Entry, in_turn
from workbench.bench.race.equality import agreed, compared
from workbench.bench.race.peers.timetable import BAR, QUESTION
from workbench.bench.race.plan import Process, System, main_answer
from workbench.bench.race.process import PeerProcess
from workbench.bench.race.schedule import Schedule, rehearsal, schedule

REHEARSED = 4  # sessions
COMPARED = 3  # answers of a run that the judge looks at
SPARE = 64  # tokens of a session beyond what it will need
MOST_ASKED = 64  # questions under way at once, for engines that want to know


class NotCounted(Exception):
    """What one system did cannot be counted; its process is well, and has others."""


def result_of(process: Process) -> dict[str, Any] | None:
    """What a peer that takes part begins with; None for others."""
    names = {system.name: system.mix for system in process.systems if system.mix}
    if not names:
        return None
    return {
        "failed": None, "systems": names, "bandwidth": {}, "equality": [], "runs": [],
        "not_counted": {},
    }  # fmt: skip


def race(course: Course, entries: Sequence[Entry], after: Callable[[], None]) -> None:
    """All their systems, at one number of sessions and then at the next, into their results.

    A failure ends a peer, an answer that is wrong or cannot be counted a system.
    ``after`` is called after each number of sessions.

    Raises:
        WorkbenchError: the judge cannot go on.
    """
    try:
        turns = [turn for entry in entries for turn in _opened(course, entry)]
        for turn in turns:
            course.say(f"{turn.entry.name}: {turn.system.mode}, rehearsal")
            _guarded(turn, functools.partial(_rehearsed, course, turn))
        for place, sessions in enumerate(course.options.mix):
            for turn in in_turn(turns, place):
                course.say(f"{turn.entry.name}: {turn.system.mode}, {sessions} sessions")
                _guarded(turn, functools.partial(_take, course, turn, sessions))
            after()
    finally:
        for entry in entries:
            entry.close()


@dataclass
class Turn:
    """One system; ``plans`` is what becomes due, by the number of sessions."""

    entry: Entry
    system: System
    plans: Mapping[int, Schedule]
    over: bool = False

    @property
    def peer(self) -> PeerProcess:
        """Its process, which must be there."""
        assert self.entry.peer is not None
        return self.entry.peer


def _opened(course: Course, entry: Entry) -> list[Turn]:
    """Start an engine with room for all that will become due."""
    options = course.options
    systems = [system for system in entry.process.systems if system.mix]
    runs = itertools.product(systems, options.mix)
    plans: dict[str, dict[int, Schedule]] = {system.name: {} for system in systems}
    for run, (system, sessions) in enumerate(runs):
        plans[system.name][sessions] = schedule(course.material, sessions, options, run)
    answer, most = int(main_answer(options.answers)), options.mix[-1]
    every = [planned for of in plans.values() for planned in of.values()]
    longest = max(planned.longest for planned in every) + answer + SPARE
    entry.open(
        longest=longest,
        cells=(most + 1) * longest + MOST_ASKED * (QUESTION_TOKENS + answer),
        sequences=most + MOST_ASKED,
    )
    return [Turn(entry, system, plans[system.name]) for system in systems]


def _guarded(turn: Turn, act: Callable[[], bool]) -> None:
    """Do something for a system that goes on; it is over where ``act`` says so or cannot be."""
    if turn.over or turn.entry.peer is None:
        return
    turn.over = True
    try:
        with turn.entry.may_fail():
            turn.over = not act()
    except NotCounted as error:
        turn.entry.result["not_counted"][turn.system.name] = str(error)


def _rehearsed(course: Course, turn: Turn) -> bool:
    equality = compared(functools.partial(_rehearse, course, turn.peer, turn.system))
    turn.entry.result["equality"] += equality
    return agreed(equality)


def _take(course: Course, turn: Turn, sessions: int) -> bool:
    run, equality = _run(course, turn.peer, turn.system, sessions, turn.plans[sessions])
    turn.entry.result["equality"] += equality
    if not agreed(equality):
        return False  # who is wrong is not measured
    turn.entry.result["runs"].append(run)
    return True


def _rehearse(
    course: Course, peer: PeerProcess, system: System, attempt: int
) -> list[dict[str, Any]]:
    """A few sessions, everything at once; the judge scores all answers."""
    sessions = min(REHEARSED, course.options.mix[-1])
    planned = rehearsal(course.material, sessions, course.options, attempt)
    found = _ask(course, peer, system, planned, scored=True)
    asked = [i for i, due in enumerate(planned.events) if due.kind == QUESTION]
    late = [i for i in asked if found["done"][i]["last_ms"] is None]
    if late:
        msg = f"{len(late)} of {len(asked)} questions of the rehearsal were not answered"
        raise NotCounted(msg)
    return [_judged(course, system, planned, i, found["done"][i], sessions) for i in asked]


def _run(
    course: Course, peer: PeerProcess, system: System, sessions: int, planned: Schedule
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One run, and what the judge says of a few of its answers."""
    found = _ask(course, peer, system, planned)
    events = [
        _event(due.at, due.kind, done, found["ended_s"])
        for due, done in zip(planned.events, found["done"], strict=True)
    ]
    run = {
        "system": system.name,
        "sessions": sessions,
        "reading_s": found["reading_s"],
        "ended_s": found["ended_s"],
        "processors": found["busy"],
        "events": events,
    }
    answered = [
        index
        for index, due in enumerate(planned.events)
        if due.kind == QUESTION and found["done"][index]["last_ms"] is not None
    ]
    checks = []
    for place, index in enumerate(answered):
        done = found["done"][index]
        if done["position"] < planned.least(index):
            msg = (
                f"a question saw {done['position']} tokens of its session, "
                f"{planned.least(index)} were due before it"
            )
            raise NotCounted(msg)
        if place % -(-len(answered) // COMPARED) == 0:
            checks.append(_judged(course, system, planned, index, done, sessions))
    return run, checks


def _ask(
    course: Course, peer: PeerProcess, system: System, planned: Schedule, *, scored: bool = False
) -> dict[str, Any]:
    options = course.options
    return peer.ask(
        "mix", options.timeout + planned.seconds + options.mix_grace, mode=system.mode,
        tokens=int(main_answer(options.answers)), grace=options.mix_grace, scored=scored,
        **planned.as_sent(),
    )  # fmt: skip


def _judged(
    course: Course,
    system: System,
    planned: Schedule,
    index: int,
    done: dict[str, Any],
    sessions: int,
) -> dict[str, Any]:
    """Have the judge score one answer, on just the bars that it saw."""
    due = planned.events[index]
    read = planned.read(due.session, done["position"])
    if read is None:
        msg = f"a question saw {done['position']} tokens, which is in the middle of a bar"
        raise NotCounted(msg)
    stale = None
    if done["logprobs"]:
        stale = read[: planned.least(index) - _last_bar(planned, index)]
    said = course.judge.open_answer(done, 0, read, stale, due.ids)
    return {"system": system.name, "sessions": sessions, "event": index, **said}


def _last_bar(planned: Schedule, index: int) -> int:
    """Tokens of the last bar that a question must see."""
    session = planned.events[index].session
    bars = [d for d in planned.events[:index] if d.kind == BAR and d.session == session]
    return len(bars[-1].ids) if bars else 0


def _event(at: float, kind: str, done: dict[str, Any], ended_s: float) -> dict[str, Any]:
    """What became of one event; what was not finished has waited at least until the end."""
    age_ms = (ended_s - at) * 1e3
    read_later = done["kept"]
    finished = done["last_ms"] is not None or read_later
    return {
        "kind": kind,
        "due_s": at,
        "first_ms": None if kind == BAR else _or(done["first_ms"], age_ms),
        "last_ms": None if read_later else _or(done["last_ms"], age_ms),
        "finished": finished,
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
