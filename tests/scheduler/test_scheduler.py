"""Each rule as a whole plan: who comes first, who gets how much, and what decided it."""

import pytest
from hypothesis import given
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


def test_a_plan_that_did_not_run_is_planned_again_alike():
    made = scheduler(500, 500)
    made.add(9, Kind.QUESTION, prefill=10)
    made.plan(10)
    assert made.plan(10).slices == made.plan(10).slices != ()


def test_what_ran_is_read_from_then_on():
    made = scheduler(80, cost=True)
    assert run(made, made.plan(0)).predicted_s == pytest.approx(0.010 + 80 * 0.001)
    made.set_backlog(1, 10)
    assert made.plan(0).predicted_s == pytest.approx(0.010 + 10 * (0.001 + 80 * 5e-7))
    made.set_context(1, 1000)
    assert made.plan(0).predicted_s == pytest.approx(0.010 + 10 * 0.0015)


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


def test_a_question_leaves_ingestion_its_floor_within_the_step():
    made = scheduler(500, 0)
    made.add(9, Kind.QUESTION, prefill=1000)
    assert lengths(made.plan(0)) == {9: 95, 1: 5}
    made.set_backlog(1, 3)
    assert lengths(made.plan(0)) == {9: 97, 1: 3}
    made.set_backlog(1, 0)
    assert lengths(made.plan(0)) == {9: 100}


QUESTIONS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20_000)), min_size=1, max_size=4)
SESSIONS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 20_000)), min_size=1, max_size=6)


@given(QUESTIONS, SESSIONS, st.integers(1, 200))
def test_ingestion_takes_all_that_fits_within_the_target_and_no_more(questions, sessions, target):
    """However far apart the contexts of the sessions whose turn it is."""
    limits = StepLimits(tokens=100, target_ms=target, ingest_floor=5, quantum=16)
    made = scheduler(*(tokens for tokens, _ in sessions), cost=True, limits=limits)
    for i, (_, context) in enumerate(sessions, 1):
        made.set_context(i, context)
    for i, (tokens, context) in enumerate(questions, 50):
        made.add(i, Kind.QUESTION, prefill=tokens, context=context)
    plan = made.plan(0)
    ingested, backlog = plan.tokens(Phase.INGEST), sum(tokens for tokens, _ in sessions)
    assert ingested == min(plan.ingest_limit, backlog)
    if plan.limited_by == "floor":
        assert plan.ingest_limit == 5
        return
    assert plan.limited_by == "target" and plan.ingest_limit > 5
    assert plan.predicted_s <= target / 1e3 + 1e-9
    if ingested < backlog and sum(lengths(plan).values()) < 100:
        dearest = COST["per_token"] + COST["per_read"] * max(context for _, context in sessions)
        assert plan.predicted_s + dearest > target / 1e3


def test_without_a_cost_model_the_share_is_four_floors():
    made = scheduler(500)
    made.add(9, Kind.QUESTION, prefill=16)
    assert made.plan(50).tokens(Phase.INGEST) == 20


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


def test_short_questions_run_whole_in_order():
    made = scheduler()
    for work in (6, 7, 8, 9):
        made.add(work, Kind.QUESTION, prefill=38)
    assert made.plan(0).slices == tuple(
        Slice(work, length, Phase.QUESTION) for work, length in ((6, 38), (7, 38), (8, 24))
    )


def test_a_long_question_is_chunked_but_its_tail_is_whole():
    made = scheduler()
    made.add(9, Kind.QUESTION, prefill=150, tail=60, cells=1)
    seen = []
    while (plan := made.plan(10)).slices:
        seen.append(plan.slices[0].length)
        run(made, plan)
    assert seen == [90, 60]


def test_only_one_tail_makes_a_step_longer_than_it_should_be():
    made = scheduler(500)
    for work in (7, 8, 9):
        made.add(work, Kind.QUESTION, prefill=60, tail=60)
    assert lengths(run(made, made.plan(10))) == {7: 60, 1: 20}  # room for 35 more, not for 60
    made.add(6, Kind.QUESTION, prefill=120, tail=120)
    assert lengths(run(made, made.plan(10))) == {8: 60, 1: 20}
    assert lengths(run(made, made.plan(10))) == {9: 60, 1: 20}
    plan = made.plan(10)
    assert lengths(plan) == {6: 120, 1: 5} and plan.limited_by == "floor"


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


# Data that a question waits for.


def test_what_a_question_waits_for_has_half_of_ingestion_to_itself():
    made = scheduler(500, 500, 500)
    made.set_backlog(3, 500, awaited=80)
    assert lengths(run(made, made.plan(0))) == {3: 50, 1: 40, 2: 10}
    made.set_backlog(3, 450, awaited=30)
    # 30 for the question, the rest of the second one's turn, then the third one's own turn.
    assert lengths(run(made, made.plan(0))) == {3: 30 + 40, 2: 30}
    made.set_backlog(3, 380)
    assert lengths(made.plan(0)) == {1: 40, 2: 40, 3: 20}


def test_no_flash_query_runs_while_a_question_waits_for_data():
    made = scheduler(500)
    made.add(5, Kind.FLASH, prefill=15, cells=10, group=1)
    made.set_backlog(1, 500, awaited=200)
    assert made.plan(50).tokens(Phase.FLASH) == 0
    made.add(9, Kind.QUESTION, prefill=10, cells=45)
    assert made.plan(40).tokens(Phase.FLASH) == 15  # its cells are what the other question needs


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
    assert lengths(made.plan(1)) == {7: 1, 8: 1, 9: 1}
    made.remove(9)
    assert lengths(made.plan(0)) == {7: 4, 8: 4}


def test_nothing_is_guessed_while_a_question_waits_for_cells():
    made = scheduler()
    made.add(7, Kind.QUESTION, prefill=1, cells=1)
    run(made, made.plan(10))
    made.set_decoding(7, drafts=3)
    made.add(8, Kind.QUESTION, prefill=1, cells=20)
    assert lengths(made.plan(9)) == {7: 1}
    made.remove(8)
    assert lengths(made.plan(9)) == {7: 4}


def test_drafts_fit_into_the_step_beside_the_floor():
    made = scheduler(50, limits=StepLimits(tokens=10, ingest_floor=5))
    made.add(7, Kind.QUESTION, prefill=1)
    run(made, made.plan(0))
    made.set_decoding(7, drafts=8)
    assert lengths(made.plan(0)) == {7: 5, 1: 5}


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
    assert plan.slices == (Slice(1, 85, Phase.INGEST), Slice(5, 15, Phase.FLASH))
    assert plan.ingest_limit == 85  # no more is kept than there is to evaluate
    made.add(6, Kind.FLASH, prefill=500, cells=10, group=1)
    assert lengths(made.plan(50)) == {1: 80, 5: 15, 6: 5}


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


def test_a_session_that_asks_again_waits_for_its_next_turn():
    made = scheduler()
    for work in (11, 12):
        made.add(work, Kind.FLASH, prefill=10, cells=10, group=1)
    made.add(21, Kind.FLASH, prefill=10, cells=10, group=2)
    assert made.plan(10).admitted == (11,)
    made.add(13, Kind.FLASH, prefill=10, cells=10, group=1)
    assert made.plan(30).admitted == (12, 21, 13)


def test_a_flash_tail_may_exceed_a_step_but_not_stop_ingestion():
    made = scheduler(10_000)
    made.add(5, Kind.FLASH, prefill=110, tail=110)
    assert lengths(made.plan(0)) == {1: 5, 5: 110}
    made.set_backlog(1, 0)
    assert lengths(made.plan(0)) == {5: 110}


def test_background_work_takes_what_is_left():
    made = scheduler(30, 0)
    made.set_backlog(2, 500, background=True)
    assert made.plan(0).slices == (Slice(1, 30, Phase.INGEST), Slice(2, 70, Phase.BACKGROUND))
    made.add(9, Kind.QUESTION, prefill=10)
    assert 2 not in lengths(made.plan(0))
    made.remove(9)
    made.add(9, Kind.QUESTION, prefill=10, cells=1)
    assert 2 not in lengths(made.plan(0))  # nor beside a question that waits for cells
    made.remove(9)
    made.set_backlog(1, 10**6)
    assert lengths(made.plan(0)) == {1: 100}
    made.set_backlog(2, 500)  # it can no longer wait
    assert lengths(made.plan(0)) == {1: 60, 2: 40}


@pytest.mark.parametrize("limits", [
    {"tokens": 0}, {"target_ms": -1}, {"ingest_floor": 0}, {"quantum": "many"},
    {"draft_questions": -1}, {"tokens": True}, {"tokens": 64.0}, {"target_ms": float("nan")},
])  # fmt: skip
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(WorkbenchError, match=r"expected a (whole )?number of at least"):
        StepLimits(**limits)
