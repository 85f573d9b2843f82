"""Sequences over runs; branches, adoption and cuts that copy nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench_kernels.tiles import Run


def grown(pool: CellPool, num_cells: int, length: int = 0) -> Sequence:
    sequence = Sequence(pool)
    sequence.grow(num_cells)
    sequence.length = length
    return sequence


def cells_of(sequence: Sequence) -> dict[int, int]:
    return {
        run.position + i: run.start + i
        for run in sequence.runs(sequence.capacity)
        for i in range(run.length)
    }


def test_cells_that_touch_are_one_run():
    sequence = Sequence(CellPool(100))
    sequence.grow(10)
    sequence.grow(5)
    assert sequence.runs(15) == (Run(0, 15, 0),)
    assert sequence.runs(12) == (Run(0, 12, 0),)


def test_a_branch_shares_the_beginning_and_owns_the_rest():
    pool = CellPool(100)
    trunk = grown(pool, 20)
    free = pool.num_free
    branch = trunk.branch(13)
    assert pool.num_free == free
    branch.grow(4, high=True)
    assert branch.runs(17) == (Run(0, 13, 0), Run(96, 4, 13))
    assert branch.slots(12, 15) == [12, 96, 97]


def test_dropping_a_branch_frees_only_its_tail():
    pool = CellPool(100)
    trunk = grown(pool, 20)
    branch = trunk.branch(20)
    branch.grow(5, high=True)
    branch.drop()
    assert pool.num_free == 80
    pool.check(trunk.spans)


def test_a_branch_outlives_its_parent():
    pool = CellPool(100)
    trunk = grown(pool, 20)
    branch = trunk.branch(7)
    trunk.drop()
    assert branch.slots(0, 7) == list(range(7))
    pool.check(branch.spans)
    branch.drop()
    assert pool.num_free == 100


def test_adopting_gives_own_cells_back_from_the_end():
    pool = CellPool(100)
    leader, follower = grown(pool, 20, length=12), grown(pool, 30, length=4)
    follower.adopt(leader, 12)
    assert follower.runs(30) == (Run(20, 4, 0), Run(4, 8, 4), Run(24, 18, 12))
    assert (follower.length, follower.capacity, pool.num_free) == (12, 30, 58)
    pool.check([*leader.spans, *follower.spans])
    leader.drop()
    assert follower.slots(4, 12) == list(range(4, 12))
    pool.check(follower.spans)


def test_adopting_step_by_step_stays_one_run():
    pool = CellPool(100)
    leader, follower = grown(pool, 20, length=20), grown(pool, 20)
    for end in (3, 4, 11, 20):
        follower.adopt(leader, end)
    assert follower.runs(20) == (Run(0, 20, 0),)
    assert pool.num_free == 80


def test_a_cut_leaves_positions_where_they_are():
    pool = CellPool(100)
    sequence = grown(pool, 40, length=30)
    out = sequence.cut(5, 12)
    assert sequence.runs(40) == (Run(0, 5, 0), Run(12, 28, 12))
    assert (sequence.length, sequence.capacity, sequence.num_cells, sequence.gap) == (30, 40, 33, 7)
    assert sequence.slots(3, 14) == [3, 4, 12, 13]
    assert pool.num_free == 60
    out.drop()
    assert pool.num_free == 67
    sequence.cut(12, 20).drop()
    assert sequence.runs(40) == (Run(0, 5, 0), Run(20, 20, 20))
    branch = sequence.branch(25)
    assert (branch.gap, branch.num_cells) == (15, 10)


@pytest.mark.parametrize("first", [(0, 5), (10, 12), (25, 30)], ids=["front", "middle", "end"])
@pytest.mark.parametrize("second", [(7, 9), (14, 20), (22, 24)])
def test_a_second_gap_is_refused_and_changes_nothing(first, second):
    pool = CellPool(100)
    sequence = grown(pool, 30, length=30)
    out = sequence.cut(*first)
    runs, gap = sequence.runs(30), sequence.gap
    with pytest.raises(AssertionError, match="must touch"):
        sequence.cut(*second)
    assert (sequence.runs(30), sequence.gap) == (runs, gap)
    pool.check([*sequence.spans, *out.spans])


def test_a_gap_grows_at_both_of_its_ends():
    sequence = grown(CellPool(100), 30, length=30)
    for start, end in ((10, 12), (8, 10), (12, 20), (5, 22)):
        sequence.cut(start, end)
    assert sequence.runs(30) == (Run(0, 5, 0), Run(22, 8, 22))
    assert sequence.gap == 17


def test_everything_can_be_cut_and_positions_go_on():
    sequence = grown(CellPool(20), 6, length=6)
    sequence.cut(0, 6).drop()
    sequence.grow(4)
    assert sequence.runs(10) == (Run(0, 4, 6),)
    assert (sequence.num_cells, sequence.capacity) == (4, 10)


def test_a_cut_sequence_adopts_nothing():
    pool = CellPool(100)
    leader, follower = grown(pool, 20, length=20), grown(pool, 20, length=10)
    follower.cut(2, 4)
    with pytest.raises(AssertionError, match="depend on what was cut"):
        follower.adopt(leader, 20)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_history_of_sequences_maps_positions_to_the_same_cells(data):
    """Growing, branching, computing, adopting, cutting and dropping, beside a dict of positions."""
    pool = CellPool(200)
    sequences = [Sequence(pool)]
    model = {sequences[0]: {}}
    leftovers = []
    for _ in range(data.draw(st.integers(1, 30))):
        one = data.draw(st.sampled_from(sequences))
        action = data.draw(st.sampled_from(["grow", "branch", "run", "adopt", "cut", "drop"]))
        if action == "grow" and pool.num_free:
            num = data.draw(st.integers(1, min(20, pool.num_free)))
            one.grow(num, high=data.draw(st.booleans()))
            after = cells_of(one)
            assert {p: c for p, c in after.items() if p in model[one]} == model[one]
            model[one] = after
        elif action == "branch":
            at = data.draw(st.integers(0, one.capacity))
            child = one.branch(at)
            model[child] = {p: c for p, c in model[one].items() if p < at}
            sequences.append(child)
        elif action == "run" and one.length < one.capacity:
            one.length = data.draw(st.integers(one.length, one.capacity))
        elif action == "adopt":
            other = data.draw(st.sampled_from(sequences))
            most = min(other.length, one.capacity)
            if most > one.length and one.gap == other.gap == 0:
                end = data.draw(st.integers(one.length + 1, most))
                start, free, capacity = one.length, pool.num_free, one.capacity
                one.adopt(other, end)
                after = cells_of(one)
                assert (one.length, one.capacity) == (end, capacity) and pool.num_free >= free
                assert all(after[p] == model[one][p] for p in range(start))
                assert all(after[p] == model[other][p] for p in range(start, end))
                assert len(set(after.values()) - set(model[other].values())) <= capacity
                model[one] = after
        elif action == "cut" and one.length > one.gap:
            first = next((p for p in range(one.length) if p not in model[one]), None)
            start = data.draw(st.integers(0, one.length - 1)) if first is None else first + one.gap
            if start < one.length:
                end = data.draw(st.integers(start + 1, one.length))
                out = one.cut(start, end)
                assert cells_of(out) == {
                    i: model[one].pop(p) for i, p in enumerate(range(start, end))
                }
                leftovers.append(out)
        elif action == "drop" and len(sequences) > 1:
            sequences.remove(one)
            one.drop()
        if leftovers and data.draw(st.booleans()):
            leftovers.pop().drop()
        for sequence in sequences:
            assert cells_of(sequence) == model[sequence]
            assert len(model[sequence]) == sequence.num_cells
            for p, cell in model[sequence].items():
                assert sequence.slots(p, p + 1) == [cell]
        pool.check([span for s in [*sequences, *leftovers] for span in s.spans])
