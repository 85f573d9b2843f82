"""Turns of so many tokens each, and what a short step leaves of one."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.scheduler.turns import Turns


def ring(*items: int, quantum: int = 10) -> Turns:
    made = Turns(quantum)
    for item in items:
        made.add(item)
    return made


def test_each_has_a_turn_and_what_is_left_goes_round_again():
    turns = ring(1, 2, 3)
    assert turns.share(31, {1: 100, 2: 4, 3: 100}.get) == [(1, 10), (2, 4), (3, 10), (1, 7)]


def test_a_turn_cut_short_goes_on_in_the_next_step():
    turns, backlog = ring(1, 2), {1: 100, 2: 100}
    assert turns.share(6, backlog.get) == [(1, 6)]
    turns.ran()
    assert turns.share(6, backlog.get) == [(1, 4), (2, 2)]
    turns.ran()
    assert turns.share(9, backlog.get) == [(2, 8), (1, 1)]


def test_what_did_not_run_is_shared_again_alike():
    turns, backlog = ring(1, 2), {1: 100, 2: 100}
    assert turns.share(15, backlog.get) == turns.share(15, backlog.get) == [(1, 10), (2, 5)]


def test_an_empty_backlog_has_no_turn_and_saves_none_up():
    turns = ring(1, 2)
    for _ in range(5):
        assert turns.share(10, {1: 0, 2: 50}.get) == [(2, 10)]
        turns.ran()
    assert turns.share(20, {1: 50, 2: 50}.get) == [(1, 10), (2, 10)]


def test_a_turn_that_was_cut_short_ends_with_the_backlog():
    turns = ring(1, 2)
    turns.share(6, {1: 50, 2: 50}.get)
    turns.ran()
    assert turns.share(6, {1: 0, 2: 0}.get) == []
    assert turns.share(6, {1: 0, 2: 50}.get) == [(2, 6)]
    assert turns.share(20, {1: 50, 2: 50}.get) == [(1, 10), (2, 10)]


def test_items_come_and_go():
    turns = ring(1, 2, 3)
    turns.share(15, {1: 50, 2: 50, 3: 50}.get)
    turns.ran()
    turns.remove(2)
    turns.remove(9)
    turns.add(4)
    assert turns.share(30, {1: 50, 3: 50, 4: 50}.get) == [(3, 10), (1, 10), (4, 10)]


def test_what_ran_counts_although_an_item_left_meanwhile():
    backlog = {1: 50, 2: 50, 3: 50}
    for gone, after in ((1, [(2, 5), (3, 10)]), (2, [(3, 10), (1, 5)]), (3, [(2, 5), (1, 10)])):
        turns = ring(1, 2, 3)
        turns.share(15, backlog.get)
        turns.remove(gone)
        turns.ran()
        assert turns.share(15, backlog.get) == after
    turns = ring(1)
    turns.share(15, backlog.get)
    turns.remove(1)
    turns.ran()
    assert turns.share(15, backlog.get) == []


@given(
    st.integers(1, 20),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
)
def test_nobody_waits_longer_than_everybody_elses_turn(quantum, backlogs, rooms):
    """Between two tokens of a waiting item the others run at most a turn each."""
    turns = ring(*range(len(backlogs)), quantum=quantum)
    left, others = dict(enumerate(backlogs)), dict.fromkeys(range(len(backlogs)), 0)
    for room in rooms:
        given: dict[int, int] = {}
        for item, tokens in turns.share(room, left.get):
            assert 0 < tokens <= quantum
            given[item] = given.get(item, 0) + tokens
        turns.ran()
        assert sum(given.values()) == min(room, sum(left.values()))
        for item, tokens in given.items():
            left[item] -= tokens
            assert left[item] >= 0
        for item in others:
            if given.get(item) or not left[item]:
                others[item] = 0
            else:
                others[item] += sum(given.values())
                assert others[item] <= (len(backlogs) - 1) * quantum
