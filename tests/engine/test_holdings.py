"""The pool as one sees it: who holds which cells, what is filled, what is shared."""

from collections import Counter

from workbench.engine.holdings import Holding
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import run_until_idle


def counted(engine) -> Counter:
    """How many hold each cell."""
    held = Counter()
    for holding in engine.holdings():
        held.update(range(holding.start, holding.start + holding.length))
    return held


def test_holdings_agree_with_the_pools_own_counts(make_engine):
    engine = make_engine(start=False, limits=StepLimits(tokens=24))
    for name in ("a", "b"):
        session = engine.open(name, prompt="You watch what both of them see.", cells=300)
        session.push(["the same first row of both", f"and {name}'s own"])
        session.flash("so?", choices=["up", "down"])
    engine.session("a").ask_start("what now?", max_tokens=6)
    while engine.step():
        held = counted(engine)
        assert len(held) == engine.pool.num_cells - engine.pool.num_free
        for cell, count in held.items():
            assert count == engine.pool._holders[cell]
    assert max(counted(engine).values()) == 2  # what both sessions begin with


def test_a_session_is_filled_as_far_as_it_has_read_and_kinds_are_told_apart(make_engine):
    engine = make_engine(start=False, cells=1024, limits=StepLimits(tokens=16))
    session = engine.open("s", cells=300)
    session.push("x" * 40)
    run_until_idle(engine)
    (own,) = engine.holdings()
    assert own == Holding(own.start, 300, session.position, "s", "session")
    session.ask_start("so?", max_tokens=4)
    session.flash("so?", max_tokens=4)
    kinds = set()
    while engine.step():
        kinds |= {(h.kind, h.owner) for h in engine.holdings()}
    assert kinds == {("session", "s"), ("question", "s"), ("flash", "s")}
    engine.generate_start("a prompt of some forty tokens, kept for a while", max_tokens=1)
    run_until_idle(engine)
    assert [h.kind for h in engine.holdings()] == ["session", "prompt"]


def test_windows_on_their_way_are_named(make_engine):
    engine = make_engine(start=False, cells=1024, limits=StepLimits(tokens=8))
    session = engine.open("s", cells=200, overflow="rebuild")
    kinds = set()
    for number in range(40):
        session.push(f"{number}: some words")
        session.push(f"{number}: more words, so that rows wait for the window")
        session.ask_start("so?", max_tokens=24, fresh=False)
        while engine.step():
            kinds |= {h.kind for h in engine.holdings()}
    assert {"session", "next window", "old window", "question"} <= kinds
