"""Parts and units of a plan, read back as the kernels read them, against the plan's tiles."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench_kernels import tuning
from workbench_kernels.gpu import units
from workbench_kernels.gpu.parts import parts, slices_of
from workbench_kernels.tiles import Run, SliceRows, consecutive, plan_tiles

CPU = torch.device("cpu")
BLOCKS = (tuning.Block(16, 1, 1), tuning.Block(32, 2, 1))
SIZES = tuning.Sizes(4, BLOCKS, least_split=8, parts=3, wide_from=12, wide_parts=2)


def seen(plan):
    """Per row the ``(position, cell)`` pairs it attends to, by the tiles."""
    pairs = [[] for _ in plan.positions]
    for tile in plan.tiles:
        for first, num in tile.rows:
            for row in range(first, first + num):
                for i in range(tile.length):
                    position, at = tile.position + i, plan.positions[row]
                    if position <= at and (plan.window is None or position > at - plan.window):
                        pairs[row].append((position, tile.start + i))
    return [sorted(p) for p in pairs]


def read_back(plan, index, group):
    """Per row its results in the order they are merged: ``(position, cell)`` pairs of each slot."""
    slots = {}
    for table, block in zip(index.tables, SIZES.blocks, strict=True):
        for fields in table.tolist():
            unit = units.Unit(*fields[: len(units.Unit._fields)])
            assert unit.start % SIZES.cells == (unit.clear - unit.start) % SIZES.cells == 0
            for packed in range(unit.packed, unit.packed + block.rows):
                listed, member = divmod(packed, group)
                if listed >= unit.num_rows:
                    continue
                row = int(index.row_ids[unit.rows_at + listed])
                at = plan.positions[row]
                pairs = []
                for position in range(unit.start, unit.end):
                    offset = unit.offset0
                    for n in (1, 2, 3):
                        if position >= getattr(unit, f"cut{n}"):
                            offset = getattr(unit, f"offset{n}")
                    shown = position <= at
                    if plan.window is not None:
                        shown = shown and position > at - plan.window
                    cell = position + offset
                    if position < unit.clear:
                        assert shown and cell >= 0
                    elif cell < 0 or not shown:
                        continue
                    pairs.append((position, cell))
                key = unit.slot + listed, member
                assert key not in slots, "two programs write one slot"
                slots[key] = row, tuple(pairs)
    rows = []
    for row, (first, last) in enumerate(pairwise(index.parts_at[: len(plan.positions) + 1])):
        mine = index.parts[first:last].tolist()
        for slot in mine:
            assert all(slots[slot, member] == slots[slot, 0] for member in range(group))
            assert slots[slot, 0][0] == row
        rows.append([slots[slot, 0][1] for slot in mine])
    used = {slot for slot, _ in slots}
    assert len(used) == int(index.parts_at[len(plan.positions)])
    assert max(used) < index.shape.slots
    return rows


@st.composite
def batches(draw):
    """A trunk in a few runs, perhaps with a gap, branches off it, and strangers."""
    cells = iter(range(0, 10**6))

    def take(num):
        spare = draw(st.integers(0, 2))
        first = [next(cells) for _ in range(num + spare)][spare]
        return first, num

    spans = [take(draw(st.integers(1, 25))) for _ in range(draw(st.integers(1, 5)))]
    gap = draw(st.sampled_from([0, 0, 3, 40]))
    trunk, position = [], 0
    for i, (start, num) in enumerate(spans):
        trunk.append(Run(start, num, position))
        position += num + (gap if i == 0 else 0)
    slices, row = [], 0
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            last = draw(st.integers(0, len(trunk) - 1))
            kept = draw(st.integers(1, trunk[last].length))
            runs = [*trunk[:last], trunk[last]._replace(length=kept)]
        else:
            runs = list(consecutive(take(draw(st.integers(1, 30)))))
        end = runs[-1].position + runs[-1].length
        num = draw(st.integers(1, 5))
        runs.append(Run(take(num)[0], num, end))
        slices.append(SliceRows(row, num, end, tuple(runs)))
        row += num
    return slices


@settings(max_examples=150, deadline=None)
@given(batches(), st.sampled_from([None, 1, 6, 30]), st.sampled_from([1, 3, 4]))
def test_units_read_what_the_tiles_name(slices, window, group):
    plan = plan_tiles(slices, window=window)
    rows = len(plan.positions) + 2
    index = units.build(plan, group, SIZES, CPU, rows)
    got = read_back(plan, index, group)
    assert [sorted(pair for part in row for pair in part) for row in got] == seen(plan)
    for row in got:  # in order of position, so that a row's sum has one order
        flat = [pair for part in row for pair in part]
        assert flat == sorted(flat)
    assert index.parts_at[rows].item() == index.parts_at[len(plan.positions)].item()


@settings(max_examples=150, deadline=None)
@given(batches(), st.sampled_from([None, 6, 30]))
def test_a_row_is_cut_alike_alone_and_in_company(slices, window):
    group = 2
    plan = plan_tiles(slices, window=window)
    crowd = read_back(plan, units.build(plan, group, SIZES, CPU, len(plan.positions)), group)
    for item in slices:
        alone = plan_tiles([item._replace(first_row=0)], window=window)
        index = units.build(alone, group, SIZES, CPU, item.num_rows)
        assert read_back(alone, index, group) == crowd[item.first_row :][: item.num_rows]


@pytest.mark.parametrize("window", [None, 10])
def test_a_row_is_cut_alike_however_its_slice_is_chunked(window):
    """Unless a chunk is wide. Position 24 is where rows begin to be split in parts of 16, not 8."""
    runs = consecutive((50, 14), (10, 8), (90, 4))
    whole = plan_tiles([SliceRows(0, 4, 22, runs)], window=window)
    want = read_back(whole, units.build(whole, 2, SIZES, CPU, 4), 2)
    for row in range(4):
        own = (*runs[:2], runs[2]._replace(length=row + 1))
        single = plan_tiles([SliceRows(0, 1, 22 + row, own)], window=window)
        assert read_back(single, units.build(single, 2, SIZES, CPU, 1), 2) == [want[row]]


def test_branches_share_what_is_the_same():
    """20 positions in parts of 8: two whole ones shared, the third read by each for itself."""
    branches = [
        SliceRows(0, 2, 20, consecutive((100, 20), (200, 2))),
        SliceRows(2, 1, 20, consecutive((100, 20), (300, 1))),
    ]
    plan = plan_tiles(branches)
    found = {(part.rows, part.starts, part.length) for part in parts(plan, 2, SIZES)}
    assert found == {
        (((0, 2), (2, 1)), range(0, 16, 8), 8),
        (((0, 2),), range(16, 17), 6),
        (((2, 1),), range(16, 17), 5),
    }


def test_a_plan_gives_its_slices_back():
    trunk = (10, 40)
    slices = [
        SliceRows(0, 3, 40, consecutive(trunk, (60, 3))),
        SliceRows(3, 1, 43, consecutive(trunk, (60, 3), (70, 1))),  # goes on where the first ends
        SliceRows(4, 2, 30, consecutive((10, 30), (80, 2))),
    ]
    assert slices_of(plan_tiles(slices)) == slices
    last = slices_of(plan_tiles(slices, window=5))[2]
    assert last == SliceRows(4, 2, 30, (Run(36, 4, 26), Run(80, 2, 30)))


def test_a_position_decides_its_split():
    assert [SIZES.split(p, 1) for p in (0, 23, 24, 47, 48)] == [
        (8, 24), (8, 24), (16, 48), (16, 48), (32, 96),
    ]  # fmt: skip
    assert SIZES.split(23, SIZES.wide_from) == (16, 32)


def test_steps_of_like_size_have_one_shape():
    def shape(position, rows):
        item = SliceRows(0, rows, position, consecutive((0, position + rows)))
        return units.build(plan_tiles([item]), 4, SIZES, CPU, rows).shape

    assert shape(30, 2) == shape(31, 2) == shape(32, 2)
    assert shape(30, 2) != shape(30, 3)


def test_an_index_takes_only_its_own_shape():
    def index(rows):
        item = SliceRows(0, rows, 30, consecutive((0, 30 + rows)))
        return units.build(plan_tiles([item]), 4, SIZES, CPU, rows)

    with pytest.raises(AssertionError):
        index(2).refill(index(3))


@pytest.mark.parametrize("row", tuning.TABLE.items(), ids=lambda row: f"{row[0][0]}-{row[0][1]}")
def test_the_table_keeps_its_own_rules(row):
    (family, dim), sizes = row
    assert family in tuning.FAMILY.values() and dim in (64, 128, 256)
    rows = [block.rows for block in sizes.blocks]
    assert rows == sorted(set(rows))
    # Starts of parts must be starts of blocks of cells, and all sizes powers of two.
    assert sizes.least_split % sizes.cells == 0
    for number in (sizes.cells, sizes.least_split, *rows):
        assert number & (number - 1) == 0
    if family == "sm_90":  # groups of four warps and 64 rows throughout: one instruction
        assert all(block.rows % 64 == 0 and block.warps % 4 == 0 for block in sizes.blocks)


def test_every_device_has_sizes():
    for capability in [*tuning.FAMILY, (7, 5), (13, 0)]:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            assert tuning.lookup(tuning.family(capability), dtype, 80)
