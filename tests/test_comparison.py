"""`wb.diff` asks two sessions the same, at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import workbench as wb
import workbench_kernels as kernels
from tests.engine.test_moments import context
from workbench.errors import QuestionError, SessionClosed
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, run_until_idle


@pytest.fixture
def forked(engine):
    parent = engine.open("s", cells=400)
    parent.push(["one", "two"]).wait()
    fork = parent.fork("what-if")
    fork.push("three").wait()
    return parent, fork


def test_both_are_asked_the_same_each_over_its_own_rows(engine, forked):
    diff = wb.diff(*forked, "so?", choices=["up", "down"])
    assert [context(engine, a) for a in (diff.first, diff.second)] == [
        ["one", "two"], ["one", "two", "three"],
    ]  # fmt: skip
    for answer in (diff.first, diff.second):
        assert_recomputes(engine.decoder.model, answer, 5e-5)
    after, before = diff.second.probabilities, diff.first.probabilities
    assert diff.shift == {c: after[c] - before[c] for c in ("up", "down")}
    assert sum(diff.shift.values()) == pytest.approx(0.0) and diff.shift["up"] != 0
    assert diff.same == (diff.first.choice == diff.second.choice)
    again = wb.diff(*forked, "so?", max_tokens=3, at=2)
    assert again.same and again.shift == {}
    assert repr(again) == (
        f"Diff(s {again.first.text!r} ({again.first.confidence:.2f}) -> what-if "
        f"{again.second.text!r} ({again.second.confidence:.2f}), the same)"
    )


def test_they_share_the_steps_and_what_they_have_in_common(make_engine, monkeypatch):
    engine = make_engine(start=False, limits=StepLimits(tokens=64))
    parent = engine.open("s", cells=400)
    parent.push(["one", "two"])
    run_until_idle(engine)
    fork = parent.fork("what-if")
    seen, plans = [], []
    engine.events.subscribe(lambda e: seen.append(e.num_slices) if hasattr(e, "shares") else None)
    plan_tiles = kernels.plan_tiles

    def watched(slices, **options):
        plans.append(plan_tiles(slices, **options))
        return plans[-1]

    monkeypatch.setattr(kernels, "plan_tiles", watched)
    done = ThreadPoolExecutor(1).submit(wb.diff, parent, fork, "so?", choices=["up", "down"])
    while not done.done():
        engine.step()
    assert done.result().same and seen[-1] == 2
    # The step that answered both read what they have in common as one tile, for the rows of both.
    tile = max(plans[-1].tiles, key=lambda tile: tile.length)
    assert tile.length == parent.position
    assert sum(num for _, num in tile.rows) == len(plans[-1].positions)


def test_if_one_cannot_be_asked_neither_is(engine, forked):
    parent, fork = forked
    with pytest.raises(QuestionError, match="two different texts"):
        wb.diff(parent, fork, "so?", choices=["up"])
    fork.close()
    with pytest.raises(SessionClosed):
        wb.diff(parent, fork, "so?", max_tokens=200)
    assert parent.ask("so?", max_tokens=1).text is not None
    engine.call(lambda: None)
    assert engine.stats().answers == 1
    with pytest.raises(TimeoutError, match="no answer after 0"):
        wb.diff(parent, parent, "so?", max_tokens=200, timeout=0.0)
