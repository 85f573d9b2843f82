"""Single questions of a race: in whose turn, and until whose time is up."""

import itertools
from types import SimpleNamespace

from workbench.bench.race import plan, single
from workbench.bench.race.entry import Entry
from workbench.bench.race.options import Options
from workbench.bench.race.plan import Cell, Process, System, cells
from workbench.bench.race.process import PeerFailed


def test_everyone_is_asked_one_kind_before_anyone_the_next():
    order = []

    def peer(name):
        def ask(do, timeout, *, mode, bars, tokens, choices, **_):
            order.append((name, len(bars), tokens, choices is not None))
            if (name, tokens) == ("b", 64):
                raise PeerFailed("out of memory")
            return {"ttft_ms": 1.0, "total_ms": 1.0, "arrivals_ms": [1.0], "settled_ms": 0.0}

        return SimpleNamespace(ask=ask, close=lambda: None)

    options = Options(between=(1, 10), answers=("1", "8", "64", plan.CHOICE), repeats=3)
    material = SimpleNamespace(lengths={100: 100}, question=[1], choices=[2, 3])
    course = SimpleNamespace(options=options, material=material, say=lambda _: None)
    runners = []
    for name, kinds in (("a", "all"), ("b", "all"), ("c", "open")):
        process = Process(name, name, "p.py", (System(name, "m", "arrival", "w", kinds=kinds),))
        entry = Entry(course, process, {"samples": []})
        entry.peer = peer(name)
        planned = cells(process.systems[0], options.between, options.answers, options.repeats)
        runners.append(single.Runner(entry, process.systems[0], itertools.repeat([7]), planned))
    single.measure(course, runners, 100)
    first = [(1, 8, False), (1, 1, False), (1, 1, True), (10, 8, False), (1, 64, False)]
    kinds = [kind for kind, _ in itertools.groupby(order, key=lambda asked: asked[1:])]
    assert kinds == first + first[:3] + first[:3]
    asked = [{name for name, *kind in order[at : at + 3]} for at in (0, 3)]
    assert asked == [{"a", "b", "c"}] * 2
    assert [order[at][0] for at in (0, 3)] == ["a", "b"]  # another one first each time
    assert runners[1].entry.result["failed"] == "out of memory"
    assert {len(r.entry.result["samples"]) for r in runners} == {11, 4, 8}


def test_a_kind_that_takes_long_leaves_the_others_their_rounds():
    process = Process("a", "a", "p.py", (System("a", "m", "arrival", "w"),))
    planned = [Cell(1, "8", 7), Cell(50, "8", 2)]
    runner = single.Runner(Entry(None, process, {}), process.systems[0], iter(()), planned)
    runner.spent_s.update({(1, "8"): 9.0, (50, "8"): 25.0})
    assert runner.may_go_on((1, "8"), 1, 20.0) and not runner.may_go_on((50, "8"), 1, 20.0)
    assert runner.may_go_on((1, "1"), 0, 20.0)  # every kind once, if that takes no two budgets
    runner.spent_s[1, "8"] = 16.0
    assert not runner.may_go_on((1, "8"), 1, 20.0) and not runner.may_go_on((1, "1"), 0, 20.0)
