"""Single and standing questions at each context, for engines that are on the machine together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.bench.race import single, standing
from workbench.bench.race.course import Course
from workbench.bench.race.entry import Entry
from workbench.bench.race.options import SINGLE, STANDING
from workbench.bench.race.plan import System
from workbench.bench.race.single import Runner
from workbench.bench.race.standing import Watcher


def race(course: Course, entries: Sequence[Entry], after: Callable[[], None]) -> None:
    """All of them through all contexts; ``after`` is called after each context.

    Of each engine the judge looks at an answer at every context before anything is timed there;
    who was wrong once is not measured any more.

    Raises:
        WorkbenchError: the judge cannot go on.
    """
    wrong: set[str] = set()
    wrong_standing: set[str] = set()
    try:
        for entry in entries:
            entry.open()
        for context in course.material.lengths:
            runners: list[Runner] = []
            watchers: list[Watcher] = []
            for entry in entries:
                with entry.may_fail():
                    _read(course, entry, context)
                    found, standing_found = _compare(course, entry, context, wrong, wrong_standing)
                    runners += found
                    watchers += standing_found
            single.measure(course, runners, context)
            standing.measure(course, watchers, context)
            after()
    finally:
        for entry in entries:
            entry.close()


def _read(course: Course, entry: Entry, context: int) -> None:
    if entry.peer is None:
        return
    course.say(f"{entry.name}: reading {context:,} tokens")
    length = course.material.lengths[context]
    filled = entry.peer.ask("fill", course.options.timeout, length=length)
    entry.result["reading"].append({"context": context, "seconds": filled["seconds"]})


def _compare(
    course: Course, entry: Entry, context: int, wrong: set[str], wrong_standing: set[str]
) -> tuple[list[Runner], list[Watcher]]:
    """Have the judge look at its answers; returns whom to measure, and notes who was wrong."""
    options = course.options
    bars, later = course.material.fresh(), course.material.fresh(1)
    runners: list[Runner] = []
    watchers: list[Watcher] = []

    def standing_too(system: System) -> bool:
        known = wrong | wrong_standing
        return STANDING in options.parts and bool(system.standing) and system.name not in known

    for system in entry.process.systems if entry.peer is not None else ():
        course.say(f"{entry.name}: {system.mode}, {context:,} tokens, comparing")
        if SINGLE in options.parts and system.name not in wrong:
            runner = single.compare(course, entry, system, context, bars)
            if runner is None:
                wrong.add(system.name)
            else:
                runners.append(runner)
        if standing_too(system):
            watcher = standing.compare(course, entry, system, context, later)
            if watcher is None:
                wrong_standing.add(system.name)
            else:
                watchers.append(watcher)
    return runners, watchers
