"""K standing questions over one context: a bar arrives, and all of them are to be answered."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.bench.race.course import Course
from workbench.bench.race.entry import Entry, in_turn
from workbench.bench.race.equality import agreed, compared
from workbench.bench.race.plan import CHOICE, System, main_answer


@dataclass
class Watcher:
    """One system at one context.

    Attributes:
        bars: that arrive, without end.
        left: kinds of answers and numbers of questions that it has yet to be measured in.
        spent_s: of its budget.
    """

    entry: Entry
    system: System
    bars: Iterator[list[int]]
    left: list[tuple[int, str]]
    spent_s: float = 0.0


def compare(
    course: Course, entry: Entry, system: System, context: int, bars: Iterator[list[int]]
) -> Watcher | None:
    """Have the judge look at three of the most answers, into the entry's result.

    Returns:
        None if one is wrong: then it is not measured.

    Raises:
        PeerFailed: the peer cannot go on.
        WorkbenchError: the judge cannot.
    """
    options = course.options
    answers = [main_answer(options.answers)]
    if CHOICE in options.answers and system.kinds == "all":
        answers.append(CHOICE)
    kinds = [(num, answer) for num in options.standing for answer in answers]
    watcher = Watcher(entry, system, bars, kinds)
    equality: list[dict[str, Any]] = []
    for answer in answers:
        equality += compared(functools.partial(_compare, course, watcher, context, answer))
    entry.result["standing"]["equality"] += equality
    return watcher if agreed(equality) else None


def measure(course: Course, watchers: Sequence[Watcher], context: int) -> None:
    """Everyone is measured in one kind before anyone in the next.

    A round that warms up goes before those that count.

    Raises:
        WorkbenchError: the judge cannot go on.
    """
    kinds = dict.fromkeys(kind for watcher in watchers for kind in watcher.left)
    for turn, (num, answer) in enumerate(kinds):
        course.say(f"{context:,} tokens, {num} standing")
        for watcher in in_turn(watchers, turn):
            if (num, answer) in watcher.left and watcher.entry.peer is not None:
                with watcher.entry.may_fail():
                    _measure(course, watcher, context, num, answer)


def _measure(course: Course, watcher: Watcher, context: int, num: int, answer: str) -> None:
    options, entry = course.options, watcher.entry
    left_s = max(0.0, options.budget - watcher.spent_s) / len(watcher.left)
    watcher.left.remove((num, answer))
    rounds = [next(watcher.bars) for _ in range(options.repeats + 1)]
    began = time.perf_counter()
    found = _ask(course, watcher, context, answer, num, rounds, left_s)
    watcher.spent_s += time.perf_counter() - began
    entry.result["standing"]["samples"] += [
        {
            "system": watcher.system.name,
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


def _ask(
    course: Course,
    watcher: Watcher,
    context: int,
    answer: str,
    num: int,
    rounds: list[list[int]],
    budget_s: float,
    *,
    scored: bool = False,
) -> dict[str, Any]:
    material, peer = course.material, watcher.entry.peer
    assert peer is not None
    return peer.ask(
        "standing", course.options.timeout, mode=watcher.system.mode,
        length=material.lengths[context],
        bars=rounds, questions=material.questions[:num], words=material.questions_words[:num],
        tokens=1 if answer == CHOICE else int(answer),
        choices=material.choices if answer == CHOICE else None,
        budget_s=budget_s, scored=scored,
    )  # fmt: skip


def _compare(
    course: Course, watcher: Watcher, context: int, answer: str, _: int
) -> list[dict[str, Any]]:
    """Have the judge score the first, the middle and the last of the most, after a second bar.

    Every attempt takes the bars that come next.
    """
    material, num = course.material, course.options.standing[-1]
    rounds = [next(watcher.bars), next(watcher.bars)]
    found = _ask(course, watcher, context, answer, num, rounds, 0.0, scored=True)
    length, checks = material.lengths[context], []
    for which in sorted({0, num // 2, num - 1}):
        reply, asked = found["answers"][which], material.questions[which]
        read = [*rounds[0], *rounds[1]]
        if answer != CHOICE:
            said = course.judge.open_answer(reply, length, read, rounds[0], asked)
        else:
            said = course.judge.choice(reply, material.choices, length, read, asked)
        place = {"system": watcher.system.name, "context": context, "questions": num}
        checks.append(place | {"question": which, "answer": answer} | said)
    return checks
