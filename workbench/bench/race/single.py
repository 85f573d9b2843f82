"""One question at a time, each from the same state: bars arrive, then it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.bench.race.course import Course
from workbench.bench.race.plan import CHOICE, Cell, System, cells, main_answer
from workbench.bench.race.process import PeerProcess

FIRST_ROUND = 2  # budgets that measuring every kind once may take; what is left then is left out


def measure(
    course: Course, peer: PeerProcess, system: System, context: int, bars: Iterator[list[int]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One system at one context: the comparison, then rounds of all its cells.

    Raises:
        PeerFailed: the peer cannot go on.
        WorkbenchError: the judge cannot.
    """
    options = course.options
    planned = cells(system, options.between, options.answers, options.repeats)
    began = time.perf_counter()
    equality, scored = _compare(course, peer, system, context, bars)
    samples: list[dict[str, Any]] = []
    if not equality["agrees"]:
        return equality, samples
    done = 0
    if system.kinds == "main":
        # It computes everything each time, so the comparison took as long as any other answer.
        samples.append(_sample(system, context, planned[0], scored))
        done = 1
    else:
        began = time.perf_counter()
    for index in range(done, options.repeats):
        limit = options.budget * (1 if index else FIRST_ROUND)
        for cell in planned:
            if index >= cell.rounds:
                continue
            if time.perf_counter() - began > limit:
                return equality, samples
            answer = _trial(course, peer, system, context, cell, bars)
            samples.append(_sample(system, context, cell, answer))
    return equality, samples


def _sample(system: System, context: int, cell: Cell, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "system": system.name,
        "context": context,
        "position": answer["position"],
        "between": cell.between,
        "answer": cell.answer,
        "ttft_ms": answer["ttft_ms"],
        "total_ms": answer["total_ms"],
        "arrivals_ms": sum(answer["arrivals_ms"]) + answer["settled_ms"],
    }


def _trial(
    course: Course,
    peer: PeerProcess,
    system: System,
    context: int,
    cell: Cell,
    bars: Iterator[list[int]],
    *,
    scored: bool = False,
) -> dict[str, Any]:
    """Bars arrive and a question is asked; ``position`` is what was read before the question."""
    length = course.material.lengths[context]
    arriving = [next(bars) for _ in range(cell.between)]
    answer = peer.ask(
        "trial", course.options.timeout, mode=system.mode, length=length, bars=arriving,
        question=course.material.question, tokens=cell.tokens,
        choices=course.material.choices if cell.answer == CHOICE else None, scored=scored,
    )  # fmt: skip
    read = sum(map(len, arriving))
    return answer | {"position": length + read, "bars": arriving}


def _compare(
    course: Course, peer: PeerProcess, system: System, context: int, bars: Iterator[list[int]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have the judge score a system's answer; returns what it says, and the answer."""
    options, material = course.options, course.material
    answer = CHOICE if system.kinds == "flash" else main_answer(options.answers)
    cell = Cell(options.between[0], answer, 1)
    found = _trial(course, peer, system, context, cell, bars, scored=True)
    length, asked = material.lengths[context], material.question
    read = [token for bar in found["bars"] for token in bar]
    stale = [token for bar in found["bars"][:-1] for token in bar]
    if answer == CHOICE:
        said = course.judge.choice(found, material.choices, length, read, asked)
    else:
        said = course.judge.open_answer(found, length, read, stale, asked)
    return {"system": system.name, "context": context, **said}, found
