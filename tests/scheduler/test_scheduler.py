"""Whole plans as values, bounds on how long anyone waits, and random arrivals that all complete."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.scheduler.cost import CostModel
from workbench.scheduler.plan import Phase, Plan, Slice
from workbench.scheduler.scheduler import Kind, Scheduler, StepLimits

LIMITS = StepLimits(tokens=100, target_ms=50, ingest_floor=5, quantum=40, flash_share=20)
# One millisecond a token, half as much again per token at 1,000 cells of context.
COST = {"base": 10e-3, "per_token": 1e-3, "per_read": 5e-7}


def scheduler(*backlogs: int, cost: bool = False, limits: StepLimits = LIMITS) -> Scheduler:
    made = Scheduler(limits, CostModel(**COST) if cost else None)
    for i, tokens in enumerate(backlogs, 1):
        made.add(i, Kind.INGEST)
        made.set_backlog(i, tokens)
    return made


def run(made: Scheduler, plan: Plan) -> Plan:
    for piece in plan.slices:
        made.ran(piece.work, piece.length)
    return plan


def lengths(plan: Plan) -> dict[int, int]:
    return {piece.work: piece.length for piece in plan.slices}


# Ingestion.


def test_nothing_to_do_is_an_empty_plan():
    assert scheduler().plan(100) == Plan()
    assert scheduler(0, 0).idle


def test_idle_ingestion_takes_the_whole_step_in_turns():
    plan = scheduler(500, 500, 7).plan(100)
    assert plan == Plan(
        (), (Slice(1, 40 + 13, Phase.INGEST), Slice(2, 40, Phase.INGEST),
             Slice(3, 7, Phase.INGEST)), 100, "idle")  # fmt: skip


def test_a_firehose_does_not_starve_a_slow_session():
    """Per turn of its own, a slow session waits for at most one turn of each other session."""
    made = scheduler(*[10**6] * 10, 0)
    for _ in range(7):
        run(made, made.plan(0))
    made.set_backlog(11, 90)
    others = 0
    while made._active[11].prefill:
        ran = lengths(run(made, made.plan(0)))
        others += sum(tokens for work, tokens in ran.items() if work != 11)
    assert others <= 10 * LIMITS.quantum * 3 + LIMITS.tokens


def test_everyone_gets_the_same_in_the_long_run():
    made, total = scheduler(*[10**6] * 7), dict.fromkeys(range(1, 8), 0)
    for _ in range(500):
        for work, tokens in lengths(run(made, made.plan(0))).items():
            total[work] += tokens
    assert max(total.values()) - min(total.values()) <= LIMITS.quantum


def test_a_plan_that_did_not_run_is_planned_again_alike():
    made = scheduler(500, 500)
    made.add(9, Kind.QUESTION, prefill=10)
    made.plan(10)
    assert made.plan(10).slices == made.plan(10).slices != ()


# Questions beside it.


def test_a_question_comes_first_and_ingestion_keeps_the_step_to_its_target():
    made = scheduler(500, cost=True)
    made.set_context(1, 1000)
    made.add(9, Kind.QUESTION, prefill=16, cells=20, context=2000)
    # 50 ms less 10 for the step and 16 x 2 for the question leave 8, at 1.5 a token.
    plan = made.plan(50)
    assert plan.admitted == (9,)
    assert plan.slices == (Slice(9, 16, Phase.QUESTION), Slice(1, 5, Phase.INGEST))
    assert (plan.ingest_limit, plan.limited_by) == (5, "floor")
    assert plan.predicted_s == pytest.approx(0.010 + 16 * 0.002 + 5 * 0.0015)
    run(made, plan)
    made.set_decoding(9)
    # 50 less 10 and one token of 2.008 leave 37.99.
    plan = run(made, made.plan(30))
    assert plan.slices == (Slice(9, 1, Phase.DECODE), Slice(1, 25, Phase.INGEST))
    assert (plan.ingest_limit, plan.limited_by) == (25, "target")
    assert plan.predicted_s <= 0.050
    made.remove(9)
    assert made.plan(50).limited_by == "idle"
    assert made.plan(50).tokens(Phase.INGEST) == 100


def test_without_a_cost_model_the_share_is_four_floors():
    made = scheduler(500)
    made.add(9, Kind.QUESTION, prefill=16)
    assert made.plan(50).tokens(Phase.INGEST) == 20


def test_endless_questions_leave_ingestion_its_floor():
    made = scheduler(100, cost=True)
    for i in range(100):
        made.add(50 + i, Kind.QUESTION, prefill=60, cells=1, context=50_000)
        plan = run(made, made.plan(10))
        assert plan.tokens(Phase.INGEST) == min(5, 100 - 5 * i if i < 20 else 0)
        made.remove(50 + i)
        made.set_backlog(1, max(0, 100 - 5 * (i + 1)))


def test_a_long_prompt_does_not_hold_up_short_questions():
    made = scheduler(cost=True)
    made.add(8, Kind.QUESTION, prefill=5000, cells=1)
    assert lengths(run(made, made.plan(10))) == {8: 100}  # alone: the whole step
    made.add(9, Kind.QUESTION, prefill=20, cells=1)
    made.add(10, Kind.QUESTION, prefill=20, cells=1)
    plan = run(made, made.plan(10))
    assert lengths(plan)[9] == lengths(plan)[10] == 20
    assert 0 < lengths(plan)[8] <= LIMITS.quantum
    made.remove(10)
    made.set_decoding(9)
    plan = run(made, made.plan(10))
    assert lengths(plan)[9] == 1 and plan.predicted_s <= 0.0501
    assert lengths(plan)[8] >= 20


def test_a_long_question_is_chunked_but_its_tail_is_whole():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=150, tail=60, cells=1)
    seen = []
    while (plan := made.plan(10)).slices:
        seen.append(plan.slices[0].length)
        run(made, plan)
    assert seen == [90, 60]


def test_a_tail_longer_than_a_step_still_runs():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=300, tail=299, cells=1)
    assert made.plan(10).slices == (Slice(9, 1, Phase.QUESTION),)
    made.ran(9, 1)
    assert made.plan(10).slices == (Slice(9, 299, Phase.QUESTION),)


# Cells.


def test_a_question_without_cells_waits_and_lets_no_flash_past():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=10, cells=30)
    made.add(5, Kind.FLASH, prefill=10, cells=5)
    assert made.plan(20) == Plan()
    assert made.waiting(9) and made.waiting(5) and not made.idle
    assert made.plan(30).admitted == (9,)
    assert not made.waiting(9)


def test_questions_are_admitted_in_order():
    made = scheduler()
    made.add(7, Kind.QUESTION, prefill=1, cells=30)
    made.add(8, Kind.QUESTION, prefill=1, cells=5)
    assert made.plan(20).admitted == ()
    assert made.plan(31).admitted == (7,)
    assert made.plan(5).admitted == (8,)


def test_a_question_waits_for_cells_of_flash_evaluations_that_go_on_meanwhile():
    made = scheduler()
    made.add(5, Kind.FLASH, prefill=150, cells=30)
    assert made.plan(40).admitted == (5,)
    made.add(9, Kind.QUESTION, prefill=10, cells=30)
    plan = made.plan(10)
    assert plan.admitted == () and lengths(plan) == {5: 100}


# Guessed tokens.


def test_drafts_run_only_while_few_questions_do():
    made = scheduler()
    for work in (7, 8):
        made.add(work, Kind.QUESTION, prefill=1, cells=1)
    run(made, made.plan(10))
    for work in (7, 8):
        made.set_decoding(work, drafts=3)
    assert lengths(made.plan(0)) == {7: 4, 8: 4}
    made.add(9, Kind.QUESTION, prefill=1, cells=1)
    assert lengths(made.plan(0)) == {7: 1, 8: 1}  # the third waits for a cell, and counts
    made.remove(9)
    assert lengths(made.plan(0)) == {7: 4, 8: 4}


# Flash queries and background work.


def test_flash_runs_only_while_no_question_does():
    made = scheduler()
    made.add(5, Kind.FLASH, prefill=10, cells=10)
    made.add(9, Kind.QUESTION, prefill=10, cells=10)
    assert made.plan(50).slices == (Slice(9, 10, Phase.QUESTION),)
    made.remove(9)
    assert made.plan(50).slices == (Slice(5, 10, Phase.FLASH),)


def test_flash_keeps_a_share_beside_a_firehose():
    made = scheduler(10_000)
    made.add(5, Kind.FLASH, prefill=15, cells=10, group=1)
    plan = made.plan(50)
    assert plan.slices == (Slice(1, 80, Phase.INGEST), Slice(5, 15, Phase.FLASH))
    assert plan.ingest_limit == 80


def test_the_queries_of_a_session_are_let_in_together():
    made = scheduler()
    for work, group in ((11, 1), (21, 2), (12, 1), (22, 2), (13, 1)):
        made.add(work, Kind.FLASH, prefill=10, cells=10, group=group)
    plan = made.plan(35)
    assert plan.admitted == (11, 12, 13)
    assert lengths(plan) == {11: 10, 12: 10, 13: 10}
    for work in (11, 12, 13):
        made.remove(work)
    made.add(11, Kind.FLASH, prefill=10, cells=10, group=1)
    assert made.plan(35).admitted == (21, 22, 11)


def test_background_work_takes_what_is_left():
    made = scheduler(30, 0)
    made.set_backlog(2, 500, background=True)
    assert made.plan(0).slices == (Slice(1, 30, Phase.INGEST), Slice(2, 70, Phase.BACKGROUND))
    made.add(9, Kind.QUESTION, prefill=10)
    assert 2 not in lengths(made.plan(0))
    made.remove(9)
    made.set_backlog(1, 10**6)
    assert lengths(made.plan(0)) == {1: 100}
    made.set_backlog(2, 500)  # it can no longer wait
    assert lengths(made.plan(0)) == {1: 60, 2: 40}


@pytest.mark.parametrize("limits", [
    {"tokens": 0}, {"target_ms": -1}, {"ingest_floor": 0}, {"quantum": "many"},
    {"draft_questions": -1}, {"tokens": True}, {"target_ms": float("nan")},
])  # fmt: skip
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(WorkbenchError, match="expected a number of at least"):
        StepLimits(**limits)


ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(["question", "flash", "data", "background"]),
        st.integers(0, 3),  # steps to wait before it
        st.integers(1, 400),  # tokens
        st.integers(1, 60),  # tail
        st.integers(1, 12),  # answer tokens
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.booleans())
def test_every_accepted_item_completes_and_no_step_is_overfull(arrivals, cost):
    made = Scheduler(LIMITS, CostModel(**COST) if cost else None)
    total = free = 500
    for session in (1, 2, 3):
        made.add(session, Kind.INGEST)
    backlog = {1: 0, 2: 0, 3: 0}
    background = {1: False, 2: False, 3: False}
    items: dict[int, dict] = {}
    waiting = list(arrivals)
    steps_left = 0
    for _ in range(6000):
        while waiting and steps_left <= 0:
            kind, wait, tokens, tail, answer = waiting.pop(0)
            steps_left = wait
            if kind in ("data", "background"):
                session = 1 + tokens % 3
                backlog[session] += tokens
                background[session] = kind == "background"
            else:
                number = 100 + len(waiting)
                tail = min(tail, tokens)
                items[number] = {"left": tokens, "answer": answer, "cells": min(tokens, 400),
                                 "tail": tail, "held": False}  # fmt: skip
                made.add(number, Kind.QUESTION if kind == "question" else Kind.FLASH,
                         prefill=tokens, tail=tail, cells=items[number]["cells"],
                         group=tokens % 3)  # fmt: skip
        steps_left -= 1
        for session, tokens in backlog.items():
            made.set_backlog(session, tokens, background=background[session])
        plan = made.plan(free)
        for number in plan.admitted:
            assert not items[number]["held"]
            items[number]["held"] = True
            free -= items[number]["cells"]
        assert 0 <= free <= total
        if not plan and not waiting:
            break
        tails = sum(items[s.work]["tail"] for s in plan.slices if s.work in items)
        floor = LIMITS.ingest_floor
        assert sum(s.length for s in plan.slices) <= LIMITS.tokens + tails + floor
        assert len({s.work for s in plan.slices}) == len(plan.slices)
        assert [s.phase for s in plan.slices] == sorted(s.phase for s in plan.slices)
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
