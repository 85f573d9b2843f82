"""Whole plans as values, and hundreds of random arrivals that all complete."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.scheduler.plan import Phase, Plan, Slice
from workbench.scheduler.scheduler import Kind, Scheduler, StepLimits

LIMITS = StepLimits(tokens=100, ingest_beside_question=10, flash_share=20)


def scheduler(**backlogs: int) -> Scheduler:
    made = Scheduler(LIMITS)
    for i, tokens in enumerate(backlogs.values(), 1):
        made.add(i, Kind.INGEST)
        made.set_backlog(i, tokens)
    return made


def test_nothing_to_do_is_an_empty_plan():
    assert scheduler().plan(100) == Plan()


def test_idle_ingestion_takes_the_whole_step_in_equal_shares():
    plan = scheduler(a=500, b=500).plan(100)
    assert plan == Plan((), (Slice(1, 50, Phase.INGEST), Slice(2, 50, Phase.INGEST)))


def test_what_a_short_backlog_leaves_goes_to_the_long_one():
    plan = scheduler(a=7, b=500, c=0).plan(100)
    assert plan.slices == (Slice(1, 7, Phase.INGEST), Slice(2, 93, Phase.INGEST))


def test_a_question_comes_first_and_keeps_ingestion_small():
    made = scheduler(a=500)
    made.add(9, Kind.QUESTION, prefill=16, cells=20)
    assert made.plan(50) == Plan((9,), (Slice(9, 16, Phase.QUESTION), Slice(1, 10, Phase.INGEST)))
    made.ran(9, 16)
    made.set_decoding(9)
    assert made.plan(30) == Plan((), (Slice(9, 1, Phase.DECODE), Slice(1, 10, Phase.INGEST)))
    made.remove(9)
    assert made.plan(50).tokens(Phase.INGEST) == 100


def test_flash_runs_only_while_no_question_does():
    made = scheduler()
    made.add(5, Kind.FLASH, prefill=10, cells=10)
    made.add(9, Kind.QUESTION, prefill=10, cells=10)
    assert made.plan(50).slices == (Slice(9, 10, Phase.QUESTION),)
    made.remove(9)
    assert made.plan(50).slices == (Slice(5, 10, Phase.FLASH),)


def test_flash_keeps_a_share_beside_a_firehose():
    made = scheduler(a=10_000)
    made.add(5, Kind.FLASH, prefill=15, cells=10)
    plan = made.plan(50)
    assert plan.slices == (Slice(1, 80, Phase.INGEST), Slice(5, 15, Phase.FLASH))


def test_a_question_without_cells_waits_and_lets_no_flash_past():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=10, cells=30)
    made.add(5, Kind.FLASH, prefill=10, cells=5)
    assert made.plan(20) == Plan()
    assert made.plan(30).admitted == (9,)


def test_questions_are_admitted_in_order():
    made = scheduler()
    made.add(7, Kind.QUESTION, prefill=1, cells=30)
    made.add(8, Kind.QUESTION, prefill=1, cells=5)
    assert made.plan(20).admitted == ()
    assert made.plan(31).admitted == (7,)
    assert made.plan(5).admitted == (8,)


def test_a_long_question_is_chunked_but_its_tail_is_whole():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=150, tail=60, cells=1)
    lengths = []
    while (plan := made.plan(10)).slices:
        lengths.append(plan.slices[0].length)
        made.ran(9, lengths[-1])
    assert lengths == [90, 60]


def test_a_tail_longer_than_a_step_still_runs():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=300, tail=299, cells=1)
    assert made.plan(10).slices == (Slice(9, 1, Phase.QUESTION),)
    made.ran(9, 1)
    assert made.plan(10).slices == (Slice(9, 299, Phase.QUESTION),)


def test_plans_do_not_change_until_something_ran():
    made = scheduler(a=30)
    made.add(9, Kind.QUESTION, prefill=10, cells=0)
    made.plan(10)
    first, second = made.plan(10), made.plan(10)
    assert set(first.slices) == set(second.slices) != set()


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(["question", "flash", "data"]),
        st.integers(0, 3),  # steps to wait before it
        st.integers(1, 400),  # tokens
        st.integers(1, 60),  # tail
        st.integers(1, 12),  # answer tokens
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ARRIVALS)
def test_every_accepted_item_completes_and_no_step_is_overfull(arrivals):
    made = Scheduler(LIMITS)
    total = free = 500
    for session in (1, 2, 3):
        made.add(session, Kind.INGEST)
    backlog = {1: 0, 2: 0, 3: 0}
    items: dict[int, dict] = {}
    waiting = list(arrivals)
    steps_left = 0
    for _ in range(4000):
        while waiting and steps_left <= 0:
            kind, wait, tokens, tail, answer = waiting.pop(0)
            steps_left = wait
            if kind == "data":
                backlog[1 + tokens % 3] += tokens
            else:
                number = 100 + len(waiting)
                tail = min(tail, tokens)
                items[number] = {"left": tokens, "answer": answer, "cells": min(tokens, 400),
                                 "tail": tail, "held": False}  # fmt: skip
                made.add(number, Kind.QUESTION if kind == "question" else Kind.FLASH,
                         prefill=tokens, tail=tail, cells=items[number]["cells"])  # fmt: skip
        steps_left -= 1
        for session, tokens in backlog.items():
            made.set_backlog(session, tokens)
        plan = made.plan(free)
        for number in plan.admitted:
            assert not items[number]["held"]
            items[number]["held"] = True
            free -= items[number]["cells"]
        assert 0 <= free <= total
        if not plan and not waiting:
            break
        tails = sum(items[s.work]["tail"] for s in plan.slices if s.work in items)
        assert sum(s.length for s in plan.slices) <= LIMITS.tokens + tails
        assert len({s.work for s in plan.slices}) == len(plan.slices)
        for piece in plan.slices:
            assert piece.length > 0
            made.ran(piece.work, piece.length)
            if piece.work in backlog:
                backlog[piece.work] -= piece.length
                assert backlog[piece.work] >= 0
                continue
            item = items[piece.work]
            assert item["held"]
            if item["left"]:
                item["left"] -= piece.length
                assert item["left"] == 0 or item["left"] >= item["tail"]
            if not item["left"]:
                item["answer"] -= 1
                made.set_decoding(piece.work)
            if item["answer"] == 0:
                made.remove(piece.work)
                free += item["cells"]
                del items[piece.work]
    assert not items and not any(backlog.values()) and free == total
    assert made.idle
