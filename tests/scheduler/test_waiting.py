"""Nobody waits for ever: bounds beside endless work of others; random arrivals all complete."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.scheduler.cost import CostModel
from workbench.scheduler.plan import Phase, Plan
from workbench.scheduler.scheduler import Kind, Scheduler, StepLimits

LIMITS = StepLimits(tokens=100, target_ms=50, ingest_floor=5, quantum=40, flash_share=20)
SLOW = {"base": 10e-3, "per_token": 1e-3, "per_read": 5e-7}
FAST = {"base": 1e-6, "per_token": 1e-6, "per_read": 0.0}
ENDLESS = 10**9


def scheduler(*backlogs: int, cost: dict[str, float] | None = None) -> Scheduler:
    made = Scheduler(LIMITS, CostModel(**cost) if cost else None)
    for i, tokens in enumerate(backlogs, 1):
        made.add(i, Kind.INGEST)
        made.set_backlog(i, tokens)
    return made


def run(made: Scheduler, plan: Plan) -> dict[int, int]:
    for piece in plan.slices:
        made.ran(piece.work, piece.length)
    return {piece.work: piece.length for piece in plan.slices}


# Sessions beside each other.


@pytest.mark.parametrize("others", [1, 3, 10])
@pytest.mark.parametrize("tick", [7, 40, 90])
def test_a_tick_waits_for_one_turn_of_each_other_session_per_turn_of_its_own(others, tick):
    made, slow = scheduler(*[ENDLESS] * others, 0), others + 1
    for _ in range(7):
        run(made, made.plan(0))
    made.set_backlog(slow, tick)
    left, ahead = tick, 0
    while left:
        ran = run(made, made.plan(0))
        left -= ran.pop(slow, 0)
        ahead += sum(ran.values())
    turns = -(-tick // LIMITS.quantum)
    # What others have in the step that ends the wait is not ahead of it, but counted here.
    assert ahead <= turns * others * LIMITS.quantum + LIMITS.tokens


def test_everyone_gets_the_same_in_the_long_run():
    made, total = scheduler(*[ENDLESS] * 7), dict.fromkeys(range(1, 8), 0)
    for _ in range(500):
        for work, tokens in run(made, made.plan(0)).items():
            total[work] += tokens
    assert max(total.values()) - min(total.values()) <= LIMITS.quantum


def test_a_session_that_closes_in_a_step_costs_the_others_no_turn():
    made, total = scheduler(*[ENDLESS] * 3), dict.fromkeys((1, 2, 3), 0)
    for number in range(100, 300):
        made.add(number, Kind.INGEST)
        plan = made.plan(0)
        made.remove(number)
        for work, tokens in run(made, plan).items():
            total[work] += tokens
    assert max(total.values()) - min(total.values()) <= LIMITS.quantum


# Beside endless questions.


def test_endless_questions_leave_ingestion_its_floor():
    made = scheduler(ENDLESS, cost=SLOW)
    for number in range(50, 150):
        made.add(number, Kind.QUESTION, prefill=60, cells=1, context=50_000)
        assert run(made, made.plan(10)) == {number: 60, 1: 5}
        made.remove(number)


def test_endless_short_questions_do_not_stop_a_long_one():
    made = scheduler(ENDLESS, cost=SLOW)
    made.add(9, Kind.QUESTION, prefill=400, tail=30, context=50_000)
    made.plan(10)
    left = 400
    for number in itertools.count(50):
        made.add(number, Kind.QUESTION, prefill=40, context=50_000)
        ran = run(made, made.plan(10))
        assert ran[number] == 40 and ran[9] >= 5
        made.remove(number)
        left -= ran[9]
        if not left:
            break
    assert number < 50 + 400 // 5


def test_more_answers_than_a_step_has_tokens_stop_neither_prompts_nor_ingestion():
    made = scheduler(ENDLESS)
    for number in range(50, 200):
        made.add(number, Kind.QUESTION, prefill=1)
        run(made, made.plan(0))
        made.set_decoding(number)
    made.add(9, Kind.QUESTION, prefill=20)
    ran = run(made, made.plan(0))
    assert ran.pop(9) == 1 and ran.pop(1) == 5
    assert ran == dict.fromkeys(range(50, 200), 1)


# Beside endless ingestion.


@pytest.mark.parametrize(("prefill", "tail"), [(60, 1), (60, 60), (150, 30), (300, 200)])
def test_endless_ingestion_does_not_stop_flash(prefill, tail):
    """Not even one whose tail is longer than what is kept for flash queries."""
    made, left = scheduler(ENDLESS), prefill
    made.add(5, Kind.FLASH, prefill=prefill, tail=tail, cells=1)
    for _ in range(prefill // LIMITS.flash_share + 1):
        ran = run(made, made.plan(1))
        assert ran[1] >= LIMITS.ingest_floor
        left -= ran.get(5, 0)
    assert left == 0


def test_endless_ingestion_does_not_stop_the_evaluation_a_question_waits_for():
    made = scheduler(ENDLESS, cost=FAST)  # so fast that the target leaves ingestion a whole step
    made.add(5, Kind.FLASH, prefill=150, cells=30)
    run(made, made.plan(40))
    made.add(9, Kind.QUESTION, prefill=10, cells=30)
    left = 130
    while left:
        ran = run(made, made.plan(10))
        assert ran[5] >= min(20, left)
        left -= ran[5]
    made.remove(5)
    assert made.plan(40).admitted == (9,)


def test_an_answer_that_goes_on_does_not_stop_the_evaluation_a_question_waits_for():
    made = scheduler()
    made.add(5, Kind.FLASH, prefill=150, cells=30)
    run(made, made.plan(70))
    made.add(8, Kind.QUESTION, prefill=10, cells=40)
    assert 8 in run(made, made.plan(40))
    made.set_decoding(8)  # and it never ends
    run(made, made.plan(0))
    left = made._active[5].prefill
    assert left > 0, "it makes way for a question that has its cells"
    made.add(9, Kind.QUESTION, prefill=10, cells=30)
    while left:
        ran = run(made, made.plan(0))
        assert ran[8] == 1 and ran[5] > 0
        left -= ran[5]
    made.remove(5)
    assert made.plan(30).admitted == (9,)


def test_an_evaluation_whose_cells_somebody_waits_for_runs_beside_questions():
    made = scheduler()
    made.add(5, Kind.FLASH, prefill=150, cells=30)
    made.add(6, Kind.FLASH, prefill=150, cells=30, group=1)
    run(made, made.plan(60))
    made.add(8, Kind.QUESTION, prefill=10, cells=10)
    run(made, made.plan(10))
    made.set_decoding(8)
    assert run(made, made.plan(0)) == {8: 1}
    for work in (5, 7, 8):  # begun; unknown; a question already
        made.hurry(work)
    left = made._active[5].prefill
    while left:
        ran = run(made, made.plan(0))
        assert ran[8] == 1 and 6 not in ran
        left -= ran[5]


# Beside endless flash queries.


def test_a_session_that_never_stops_asking_lets_the_others_ask():
    made, number, active = scheduler(), itertools.count(100), set()
    for _ in range(4):
        made.add(next(number), Kind.FLASH, prefill=10, cells=10, group=1)
    made.add(7, Kind.FLASH, prefill=10, cells=10, group=2)
    done = []
    while 7 not in done:
        plan = made.plan(20 - 10 * len(active))
        active.update(plan.admitted)
        for work in run(made, plan):
            made.remove(work)
            active.remove(work)
            done.append(work)
            made.add(next(number), Kind.FLASH, prefill=10, cells=10, group=1)
        assert len(done) < 10


# Everything at once.

ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from(["question", "flash", "data", "background"]),
        st.integers(0, 3),  # steps to wait before it
        st.integers(1, 400),  # tokens
        st.integers(1, 150),  # tail
        st.integers(1, 12),  # answer tokens
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.sampled_from([None, SLOW, FAST]))
def test_every_accepted_item_completes_and_no_step_is_overfull(arrivals, cost):
    made = scheduler(0, 0, 0, cost=cost)
    total = free = 500
    backlog, background = {1: 0, 2: 0, 3: 0}, {1: False, 2: False, 3: False}
    items: dict[int, dict] = {}
    waiting, numbers = list(arrivals), itertools.count(100)
    pause = 0
    for _ in range(6000):
        while waiting and pause <= 0:
            kind, pause, tokens, tail, answer = waiting.pop(0)
            if kind in ("data", "background"):
                session = 1 + tokens % 3
                backlog[session] += tokens
                background[session] = kind == "background"
                continue
            number, tail = next(numbers), min(tail, tokens)
            items[number] = {"left": tokens, "answer": answer, "cells": tokens, "tail": tail,
                             "held": False, "kind": kind}  # fmt: skip
            made.add(number, Kind.QUESTION if kind == "question" else Kind.FLASH,
                     prefill=tokens, tail=tail, cells=tokens, context=answer * 1000,
                     group=tokens % 3)  # fmt: skip
        pause -= 1
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
        assert made.plan(free).slices == plan.slices
        # Longer than a step only for the sake of answers, one tail and the floor.
        answers = plan.tokens(Phase.DECODE)
        tail = max((items[s.work]["tail"] for s in plan.slices if s.work in items), default=0)
        most = max(LIMITS.tokens, answers + tail + LIMITS.ingest_floor)
        assert sum(s.length for s in plan.slices) <= most
        assert len({s.work for s in plan.slices}) == len(plan.slices)
        assert [s.phase for s in plan.slices] == sorted(s.phase for s in plan.slices)
        if any(item["kind"] == "question" for item in items.values()):
            assert plan.tokens(Phase.BACKGROUND) == 0
        for piece in plan.slices:
            assert piece.length > 0
            if piece.work in backlog:
                made.ran(piece.work, piece.length)
                backlog[piece.work] -= piece.length
                assert backlog[piece.work] >= 0
                continue
            item = items[piece.work]
            assert item["held"]
            if item["left"]:
                made.ran(piece.work, piece.length)
                item["left"] -= piece.length
                assert item["left"] == 0 or item["left"] >= item["tail"]
            else:
                made.ran(piece.work, 1)  # what was guessed was wrong
            if not item["left"]:
                item["answer"] -= 1
                made.set_decoding(piece.work, drafts=min(4, item["answer"]))
            if item["answer"] == 0:
                made.remove(piece.work)
                free += item["cells"]
                del items[piece.work]
    assert not items and not any(backlog.values()) and free == total
    assert made.idle
