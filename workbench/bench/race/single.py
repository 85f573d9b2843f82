"""One question at a time, each from the same state: bars arrive, then it is asked.

Before any is timed the judge looks at an open answer and at a choice, and every other number of
bars has arrived once: nobody's first of a kind counts.
Engines that are on the machine together take turns question by question, so that what the machine
does meanwhile happens to all of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.bench.race.course import Course
from workbench.bench.race.entry import Entry, in_turn
from workbench.bench.race.plan import CHOICE, Cell, System, cells, main_answer

FIRST_ROUND = 2  # budgets that measuring every kind once may take; what is left then is left out


@dataclass
class Runner:
    """One system at one context.

    Attributes:
        planned: what it is measured in.
        bars: that arrive, without end.
        done: rounds that are behind it.
        spent_s: of its budget, by the kind of question.
    """

    entry: Entry
    system: System
    bars: Iterator[list[int]]
    planned: list[Cell]
    done: int = 0
    spent_s: defaultdict[tuple[int, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )

    def may_go_on(self, kind: tuple[int, str], index: int, budget: float) -> bool:
        """Whether there is time for a kind of question once more.

        Each kind has its share, so that those that take long leave the others their rounds.
        """
        if index == 0:
            return sum(self.spent_s.values()) <= FIRST_ROUND * budget
        return self.spent_s[kind] <= budget / len(self.planned)


def compare(
    course: Course, entry: Entry, system: System, context: int, bars: Iterator[list[int]]
) -> Runner | None:
    """Have the judge look at a system's answer, into the entry's result.

    Returns:
        None if it is wrong: then it is not measured.

    Raises:
        PeerFailed: the peer cannot go on.
        WorkbenchError: the judge cannot.
    """
    options = course.options
    planned = cells(system, options.between, options.answers, options.repeats)
    runner = Runner(entry, system, bars, planned)
    began = time.perf_counter()
    main = CHOICE if system.kinds == "flash" else main_answer(options.answers)
    closed = [cell.answer for cell in planned if cell.answer == CHOICE]
    for answer in dict.fromkeys([main, *closed]):
        equality, scored = _compare(course, runner, context, answer)
        entry.result["equality"].append(equality)
        if not equality["agrees"]:
            return None
    if system.kinds == "main":
        # It computes everything each time, so the comparison took as long as any other answer.
        _note(runner, context, planned[0], scored)
        runner.done = 1
        runner.spent_s[planned[0].kind] = time.perf_counter() - began
    for cell in planned:
        if cell.between != options.between[0]:
            _trial(course, runner, context, cell)
    return runner


def measure(course: Course, runners: Sequence[Runner], context: int) -> None:
    """Rounds of all kinds of questions; everyone is asked one kind before anyone the next.

    Raises:
        WorkbenchError: the judge cannot go on.
    """
    options = course.options
    kinds = dict.fromkeys(cell.kind for runner in runners for cell in runner.planned)
    for index in range(options.repeats):
        course.say(f"{context:,} tokens, round {index + 1} of {options.repeats}")
        for turn, kind in enumerate(kinds):
            for runner in in_turn(runners, index + turn):
                with runner.entry.may_fail():
                    _ask(course, runner, context, kind, index)


def _ask(
    course: Course, runner: Runner, context: int, kind: tuple[int, str], index: int
) -> None:
    """One question to one of them, if it is one of its kinds and it has time left."""
    found = [cell for cell in runner.planned if cell.kind == kind]
    if not found or not runner.done <= index < found[0].rounds:
        return
    if runner.entry.peer is None or not runner.may_go_on(kind, index, course.options.budget):
        return
    began = time.perf_counter()
    _note(runner, context, found[0], _trial(course, runner, context, found[0]))
    runner.spent_s[kind] += time.perf_counter() - began


def _note(runner: Runner, context: int, cell: Cell, answer: Mapping[str, Any]) -> None:
    runner.entry.result["samples"].append({
        "system": runner.system.name,
        "context": context,
        "position": answer["position"],
        "between": cell.between,
        "answer": cell.answer,
        "ttft_ms": answer["ttft_ms"],
        "total_ms": answer["total_ms"],
        "arrivals_ms": sum(answer["arrivals_ms"]) + answer["settled_ms"],
    })  # fmt: skip


def _trial(
    course: Course, runner: Runner, context: int, cell: Cell, *, scored: bool = False
) -> dict[str, Any]:
    """Bars arrive and a question is asked; ``position`` is what was read before the question."""
    peer = runner.entry.peer
    assert peer is not None
    length = course.material.lengths[context]
    arriving = [next(runner.bars) for _ in range(cell.between)]
    answer = peer.ask(
        "trial", course.options.timeout, mode=runner.system.mode, length=length, bars=arriving,
        question=course.material.question, tokens=cell.tokens,
        choices=course.material.choices if cell.answer == CHOICE else None, scored=scored,
    )  # fmt: skip
    read = sum(map(len, arriving))
    return answer | {"position": length + read, "bars": arriving}


def _compare(
    course: Course, runner: Runner, context: int, answer: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have the judge score an answer of a kind; returns what it says, and the answer."""
    options, material, system = course.options, course.material, runner.system
    cell = Cell(options.between[0], answer, 1)
    found = _trial(course, runner, context, cell, scored=True)
    length, asked = material.lengths[context], material.question
    read = [token for bar in found["bars"] for token in bar]
    stale = [token for bar in found["bars"][:-1] for token in bar]
    if answer == CHOICE:
        said = course.judge.choice(found, material.choices, length, read, asked)
    else:
        said = course.judge.open_answer(found, length, read, stale, asked)
    return {"system": system.name, "context": context, **said}, found
