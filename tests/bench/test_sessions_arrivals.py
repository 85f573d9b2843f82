import itertools
from collections import Counter

import pytest

from workbench.bench.sessions.arrivals import Arrival, Sizes, What, Workload, arrivals
from workbench.errors import WorkbenchError


def ticks(due, session=None):
    return [a.at for a in due if a.what is What.TICK and session in (None, a.session)]


def test_the_same_seed_makes_the_same_arrivals_in_order_of_time():
    workload = Workload(sessions=5, seconds=20, questions_per_second=3)
    due = arrivals(workload)
    assert due == arrivals(workload) == sorted(due, key=lambda a: a.at)
    assert due != arrivals(Workload(sessions=5, seconds=20, questions_per_second=3, seed=1))
    assert due[0].at >= 0 and due[-1].at < 20


def test_each_session_ticks_at_its_own_moments_at_the_rate_asked_for():
    due = arrivals(Workload(sessions=3, seconds=10, tick=0.5, questions_per_second=0))
    assert [len(ticks(due, session)) for session in range(3)] == [20, 20, 20]
    for session in range(3):
        gaps = [b - a for a, b in itertools.pairwise(ticks(due, session))]
        assert gaps == pytest.approx([0.5] * 19)
    assert len({ticks(due, session)[0] for session in range(3)}) == 3


def test_a_burst_comes_at_one_moment_and_keeps_the_rate():
    due = arrivals(Workload(sessions=1, seconds=40, tick=1, burst=4, questions_per_second=0))
    moments = Counter(ticks(due))
    assert set(moments.values()) == {4} and len(moments) == 10
    gaps = [b - a for a, b in itertools.pairwise(sorted(moments))]
    assert gaps == pytest.approx([4.0] * 9)


def test_together_all_sessions_tick_at_once():
    due = arrivals(Workload(sessions=3, seconds=4, tick=2, together=True, questions_per_second=0))
    assert due == [Arrival(at, session, What.TICK) for at in (0.0, 2.0) for session in range(3)]


def test_questions_move_no_tick():
    without = arrivals(Workload(questions_per_second=0))
    assert ticks(arrivals(Workload(questions_per_second=9))) == ticks(without)


def test_questions_come_at_the_rate_asked_for_and_to_everyone():
    workload = Workload(sessions=4, seconds=2000, tick=100, questions_per_second=2)
    asked = [a for a in arrivals(workload) if a.what is not What.TICK]
    assert abs(len(asked) - 4000) < 4 * 4000**0.5  # four standard deviations
    closed = sum(a.what is What.CHOICES for a in asked) / len(asked)
    assert closed == pytest.approx(workload.choices_share, abs=0.03)
    assert min(Counter(a.session for a in asked).values()) > 800


def test_nominal_sizes_are_what_the_workload_asks_for():
    workload = Workload(sessions=2, seconds=3, tokens_per_tick=40, context=100, question_tokens=9)
    due = arrivals(workload)
    sizes = Sizes.nominal(workload, due)
    assert sizes.ticks == [40] * 6 and sizes.contexts == [100, 100]
    assert (sizes.question, sizes.flash, sizes.more_choices) == (9, 9, 0)
    assert sizes.accepted == [0] * (len(due) - 6)


@pytest.mark.parametrize(
    "wrong",
    [{"sessions": 0}, {"seconds": 0.0}, {"tick": -1.0}, {"tick": float("inf")}, {"burst": 0},
     {"choices_share": 1.5}, {"flash": -1}, {"questions_per_second": float("nan")},
     {"answer_tokens": 0}],
)  # fmt: skip
def test_a_workload_without_sense_is_refused_by_name(wrong):
    with pytest.raises(WorkbenchError, match=f"{next(iter(wrong))} .*expected"):
        Workload(**wrong)
