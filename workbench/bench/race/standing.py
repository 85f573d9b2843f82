"""K standing questions over one context: a bar arrives, and all of them are to be answered."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

from workbench.bench.race.course import Course
from workbench.bench.race.equality import agreed, compared
from workbench.bench.race.plan import CHOICE, System, main_answer
from workbench.bench.race.process import PeerProcess


def measure(
    course: Course, peer: PeerProcess, system: System, context: int, bars: Iterator[list[int]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One system at one context: three of the most answers are compared, then all K are timed.

    A round that warms up goes before those that count.

    Returns:
        What the judge says of each answer compared, and a sample for each round.

    Raises:
        PeerFailed: the peer cannot go on.
        WorkbenchError: the judge cannot.
    """
    options = course.options
    answers = [main_answer(options.answers)]
    if CHOICE in options.answers and system.kinds == "all":
        answers.append(CHOICE)
    equality: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for answer in answers:
        equality += compared(
            functools.partial(_compare, course, peer, system, context, answer, bars)
        )
    if not agreed(equality):
        return equality, samples
    kinds = [(answer, num) for num in options.standing for answer in answers]
    began = time.perf_counter()
    for place, (answer, num) in enumerate(kinds):
        left = max(0.0, options.budget - (time.perf_counter() - began)) / (len(kinds) - place)
        rounds = [next(bars) for _ in range(options.repeats + 1)]
        found = _ask(course, peer, system, context, answer, num, rounds, left)
        samples += [
            {
                "system": system.name,
                "context": context,
                "position": course.material.lengths[context] + sum(map(len, rounds[: index + 1])),
                "questions": num,
                "answer": answer,
                "read_ms": each["read_ms"],
                "total_ms": each["total_ms"],
            }
            for index, each in enumerate(found["rounds"])
            if index
        ]
    return equality, samples


def _ask(
    course: Course,
    peer: PeerProcess,
    system: System,
    context: int,
    answer: str,
    num: int,
    rounds: list[list[int]],
    budget_s: float,
    *,
    scored: bool = False,
) -> dict[str, Any]:
    material = course.material
    return peer.ask(
        "standing", course.options.timeout, mode=system.mode, length=material.lengths[context],
        bars=rounds, questions=material.questions[:num], words=material.questions_words[:num],
        tokens=1 if answer == CHOICE else int(answer),
        choices=material.choices if answer == CHOICE else None,
        budget_s=budget_s, scored=scored,
    )  # fmt: skip


def _compare(
    course: Course,
    peer: PeerProcess,
    system: System,
    context: int,
    answer: str,
    bars: Iterator[list[int]],
    _: int,
) -> list[dict[str, Any]]:
    """Have the judge score the first, the middle and the last of the most, after a second bar.

    Every attempt takes the bars that come next.
    Engines that give no shares of choices have theirs compared by single questions alone.
    """
    material, num = course.material, course.options.standing[-1]
    rounds = [next(bars), next(bars)]
    found = _ask(course, peer, system, context, answer, num, rounds, 0.0, scored=True)
    length, checks = material.lengths[context], []
    for which in sorted({0, num // 2, num - 1}):
        reply, asked = found["answers"][which], material.questions[which]
        read = [*rounds[0], *rounds[1]]
        if answer != CHOICE:
            said = course.judge.open_answer(reply, length, read, rounds[0], asked)
        elif reply["chances"] is not None:
            said = course.judge.choice(reply, material.choices, length, read, asked)
        else:
            continue
        place = {"system": system.name, "context": context, "questions": num, "question": which}
        checks.append(place | {"answer": answer} | said)
    return checks
