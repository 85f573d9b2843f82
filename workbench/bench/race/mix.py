"""Many sessions at once: bars and questions become due in real time, and each peer does its best.

A peer has a process of its own for this. Before anything counts, a rehearsal compares its answers
with the judge's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from workbench.bench.contenders import QUESTION_TOKENS
from workbench.bench.race.course import Course, failure
from workbench.bench.race.equality import agreed, compared
from workbench.bench.race.peers.timetable import BAR, QUESTION
from workbench.bench.race.plan import Process, System, main_answer
from workbench.bench.race.process import PeerFailed, PeerProcess
from workbench.bench.race.schedule import Schedule, rehearsal, schedule

REHEARSED = 4  # sessions
COMPARED = 3  # answers of a run that the judge looks at
SPARE = 64  # tokens of a session beyond what it will need
MOST_ASKED = 64  # questions under way at once, for engines that want to know


class NotCounted(Exception):
    """What one system did cannot be counted; its process is well, and has others."""


def race(course: Course, process: Process) -> dict[str, Any]:
    """One process, all its systems and numbers of sessions; a failure ends it.

    Returns:
        What it said of itself, ``failed``, what the judge said, and a run for each system and
        number of sessions.

    Raises:
        WorkbenchError: the judge cannot go on.
    """
    options = course.options
    systems = [system for system in process.systems if system.mix]
    result: dict[str, Any] = {
        "failed": None,
        "systems": {system.name: system.mix for system in systems},
        "bandwidth": {"before": course.bandwidth()},
        "equality": [],
        "runs": [],
        "not_counted": {},
    }
    peer = None
    try:
        course.say(f"{process.name}: starting for the mix")
        peer = course.start(process)
        runs = itertools.product((system.mode for system in systems), options.mix)
        plans = {
            (mode, sessions): schedule(course.material, sessions, options, run)
            for run, (mode, sessions) in enumerate(runs)
        }
        answer = int(main_answer(options.answers))
        longest = max(planned.longest for planned in plans.values()) + answer + SPARE
        most = options.mix[-1]
        sizes = {
            "longest": longest,
            "cells": (most + 1) * longest + MOST_ASKED * (QUESTION_TOKENS + answer),
            "sequences": most + MOST_ASKED,
        }
        result["opened"] = course.open(process, peer, **sizes)
        for system in systems:
            try:
                _take_turn(course, process, peer, system, plans, result)
            except NotCounted as error:
                result["not_counted"][system.name] = str(error)
    except PeerFailed as error:
        result["failed"] = failure(process, error)
    finally:
        if peer is not None:
            peer.close()
    result["bandwidth"]["after"] = course.bandwidth()
    return result


def _take_turn(
    course: Course, process: Process, peer: PeerProcess, system: System,
    plans: Mapping[tuple[str, int], Schedule], result: dict[str, Any],
) -> None:  # fmt: skip
    """One system: a rehearsal, then each number of sessions, into ``result``."""
    course.say(f"{process.name}: {system.mode}, rehearsal")
    equality = compared(functools.partial(_rehearse, course, peer, system))
    result["equality"] += equality
    if not agreed(equality):
        return
    for sessions in course.options.mix:
        course.say(f"{process.name}: {system.mode}, {sessions} sessions")
        planned = plans[system.mode, sessions]
        run, equality = _run(course, peer, system, sessions, planned)
        result["equality"] += equality
        if not agreed(equality):
            return  # who is wrong is not measured
        result["runs"].append(run)


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
