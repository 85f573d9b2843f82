"""Which tiles are planned: shared reads are shared, masks stand where something is hidden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench_kernels.tiles import Run, SliceRows, Tile, consecutive, plan_tiles


def test_a_chunk_reads_its_context_clear_and_itself_masked():
    plan = plan_tiles([SliceRows(0, 4, 10, consecutive((0, 14)))])
    # One run, one reader: the mask only hides what lies ahead, in one tile.
    assert plan.tiles == (Tile(((0, 4),), 0, 14, 0, True),)
    assert plan.positions == (10, 11, 12, 13)


def test_a_decoding_row_hides_nothing():
    plan = plan_tiles([SliceRows(0, 1, 10, consecutive((0, 8), (50, 3)))])
    assert plan.tiles == (Tile(((0, 1),), 0, 8, 0, False), Tile(((0, 1),), 50, 3, 8, False))


def test_branches_of_one_session_read_it_once():
    trunk = (0, 100)
    plan = plan_tiles([
        SliceRows(0, 2, 100, consecutive(trunk, (200, 2))),
        SliceRows(2, 2, 100, consecutive(trunk, (300, 2))),
        SliceRows(4, 1, 60, consecutive((0, 60), (400, 1))),
    ])  # fmt: skip
    assert Tile(((0, 5),), 0, 60, 0, False) in plan.tiles
    assert Tile(((0, 4),), 60, 40, 60, False) in plan.tiles
    assert len(plan.tiles) == 5


def test_a_window_skips_what_nobody_sees():
    plan = plan_tiles([SliceRows(0, 1, 99, consecutive((0, 100)))], window=16)
    assert plan.tiles == (Tile(((0, 1),), 84, 16, 84, False),)


def test_runs_that_do_not_cover_the_rows_are_a_bug():
    with pytest.raises(ValueError, match="runs end at position 9"):
        plan_tiles([SliceRows(0, 2, 8, consecutive((0, 9)))])


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=6),
    st.sampled_from([None, 1, 4, 11]),
    st.sampled_from([(0, 0), (0, 5), (3, 8)]),
)
def test_every_row_reads_each_visible_cell_once(branches, window, gap):
    gone, back = gap
    slices, row = [], 0
    for i, (num, at) in enumerate(branches):
        runs = consecutive(*([(0, at)] if at else []), (100 + 10 * i, num))
        if 0 < back < at:  # the same cells of the trunk at the same positions, some left out
            head = [Run(0, gone, 0)] if gone else []
            runs = (*head, Run(back, at - back, back), *runs[1:])
        slices.append(SliceRows(row, num, at, runs))
        row += num
    plan = plan_tiles(slices, window=window)
    for item in slices:
        cells = {run.position + i: run.start + i for run in item.runs for i in range(run.length)}
        for r in range(item.num_rows):
            position = item.position + r
            low = 0 if window is None else max(0, position - window + 1)
            seen = []
            for tile in plan.tiles:
                if any(f <= item.first_row + r < f + n for f, n in tile.rows):
                    for i in range(tile.length):
                        p = tile.position + i
                        hidden = p > position or p < low
                        assert tile.masked or not hidden
                        if not hidden:
                            seen.append(tile.start + i)
            assert sorted(seen) == sorted(c for p, c in cells.items() if low <= p <= position)


def test_a_gap_shifts_the_cells_behind_it():
    runs = (Run(0, 4, 0), Run(50, 6, 20))
    plan = plan_tiles([SliceRows(0, 1, 25, runs)])
    assert [(t.start, t.length, t.position) for t in plan.tiles] == [(0, 4, 0), (50, 6, 20)]
    near = plan_tiles([SliceRows(0, 1, 25, runs)], window=8)
    assert [(t.start, t.length, t.position) for t in near.tiles] == [(50, 6, 20)]


def test_runs_that_overlap_are_refused():
    with pytest.raises(ValueError, match="begins at position 3, the one before ends at 4"):
        plan_tiles([SliceRows(0, 1, 6, (Run(0, 4, 0), Run(9, 4, 3)))])
