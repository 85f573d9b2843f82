"""Sequences over runs, and branches that copy nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench_kernels.tiles import Run


def cells_of(sequence: Sequence) -> list[int]:
    return sequence.slots(0, sequence.capacity)


def test_extents_that_touch_are_one_run():
    sequence = Sequence(CellPool(100))
    sequence.grow(10)
    sequence.grow(5)
    assert sequence.runs(15) == (Run(0, 15),)
    assert sequence.runs(12) == (Run(0, 12),)
    assert len(sequence.extents) == 2


def test_a_branch_shares_the_beginning_and_owns_the_rest():
    pool = CellPool(100)
    trunk = Sequence(pool)
    trunk.grow(20)
    free = pool.num_free
    branch = trunk.branch(13)
    assert pool.num_free == free
    branch.grow(4, high=True)
    assert branch.runs(17) == (Run(0, 13), Run(96, 4))
    assert branch.slots(12, 15) == [12, 96, 97]


def test_dropping_a_branch_frees_only_its_tail():
    pool = CellPool(100)
    trunk = Sequence(pool)
    trunk.grow(20)
    branch = trunk.branch(20)
    branch.grow(5, high=True)
    branch.drop()
    assert pool.num_free == 80
    pool.check(trunk.extents)


def test_a_branch_outlives_its_parent():
    pool = CellPool(100)
    trunk = Sequence(pool)
    trunk.grow(20)
    branch = trunk.branch(7)
    trunk.drop()
    assert branch.slots(0, 7) == list(range(7))
    pool.check(branch.extents)
    branch.drop()
    assert pool.num_free == 100


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_tree_of_branches_maps_positions_to_the_parents_cells(data):
    pool = CellPool(200)
    sequences = [Sequence(pool)]
    model = {sequences[0]: []}
    for _ in range(data.draw(st.integers(1, 25))):
        parent = data.draw(st.sampled_from(sequences))
        action = data.draw(st.sampled_from(["grow", "branch", "drop"]))
        if action == "grow" and pool.num_free:
            num = data.draw(st.integers(1, min(20, pool.num_free)))
            parent.grow(num, high=data.draw(st.booleans()))
            assert parent.slots(0, len(model[parent])) == model[parent]
            model[parent] = cells_of(parent)
        elif action == "branch":
            at = data.draw(st.integers(0, parent.capacity))
            child = parent.branch(at)
            model[child] = model[parent][:at]
            sequences.append(child)
        elif action == "drop" and len(sequences) > 1:
            sequences.remove(parent)
            parent.drop()
        for sequence in sequences:
            assert cells_of(sequence) == model[sequence]
            runs = sequence.runs(sequence.capacity)
            assert [r.start + i for r in runs for i in range(r.length)] == model[sequence]
        pool.check([e for s in sequences for e in s.extents])
