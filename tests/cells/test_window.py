"""Whole rows stay in a window, whatever the ticks were, against a list of all tokens ever read."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.cells.window import WindowRows

TICKS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=30)


def read(rows: WindowRows, tick: list[int]) -> None:
    starts = [sum(tick[:i]) for i in range(len(tick))]
    rows.add(sum(tick), starts)


def test_rows_of_a_tick_begin_where_it_says():
    rows = WindowRows(head=5)
    rows.add(10, [0, 4])
    rows.add(3, [0])
    assert (len(rows), rows.num_tokens, rows.end) == (3, 13, 18)
    assert rows.first_of_last(3) == 15
    assert rows.first_of_last(8) == 15
    assert rows.first_of_last(9) == 9
    assert rows.first_of_last(0) == 18


def test_what_leaves_shifts_places_in_the_log():
    rows = WindowRows(head=5)
    rows.add(10, [0, 4])
    rows.add(3, [0])
    assert rows.leave(9) == 4
    assert (len(rows), rows.num_tokens, rows.left) == (2, 9, 4)
    assert rows.index(15) == 11
    assert rows.first_after(1) == 15
    assert rows.first_after(100) == 18


def test_rows_that_begin_inside_a_token_count_too():
    rows = WindowRows(head=5)
    rows.add(10, [0, -1, 4])
    rows.add(3, [0])
    assert len(rows) == 4
    assert rows.leave(5) == 0 and len(rows) == 4
    assert rows.leave(9) == 4 and len(rows) == 2  # the one inside a token with the one before it
    assert rows.leave(18) == 9 and len(rows) == 0


@given(TICKS, st.integers(0, 12), st.integers(0, 60))
def test_windows_are_whole_rows_and_as_long_as_may_be(ticks, head, keep):
    rows = WindowRows(head)
    log = [("head", i) for i in range(head)]
    number = 0
    for tick in ticks:
        read(rows, tick)
        for length in tick:
            log += [(number, i) for i in range(length)]
            number += 1
        start = rows.first_of_last(keep)
        kept = log[rows.index(start) :]
        assert len(kept) <= keep
        assert not kept or kept[0][1] == 0, "a window begins with a row's first token"
        first = kept[0][0] if kept else number
        if first > 0 and rows.index(start) > head:
            before = [t for t in log[head:] if t[0] == first - 1]
            assert len(kept) + len(before) > keep, "one more row would have fitted"
        if len(log) > 40:
            gone = rows.leave(start)
            assert gone == len(log) - head - len(kept)
            log = log[:head] + kept
        assert rows.num_tokens == len(log) - head
        assert len(rows) == len({t[0] for t in log[head:]})


@given(TICKS, st.integers(0, 80))
def test_the_first_row_after_enough_tokens(ticks, wanted):
    rows = WindowRows(3)
    for tick in ticks:
        read(rows, tick)
    place = rows.first_after(wanted)
    lengths = [length for tick in ticks for length in tick]
    total = 0
    for length in lengths:
        if total >= wanted:
            break
        total += length
    assert place == 3 + total


@given(TICKS, st.integers(0, 7), st.integers(0, 200), st.data())
def test_a_copy_until_a_row_is_a_window_that_read_no_more(ticks, head, left, data):
    lengths = [length for tick in ticks for length in tick]
    until = data.draw(st.integers(0, len(lengths)))
    rows, short = WindowRows(head), WindowRows(head)
    for tick in ticks:
        read(rows, tick)
    for length in lengths[:until]:
        read(short, [length])
    place = head + sum(lengths[:until])
    first = short.first_after(left)  # some rows left before the copy was made
    for window in (rows, short):
        window.leave(first)
    copy = rows.until(place, until)
    for grown in (copy, short):
        read(grown, [3, 4])
    for name in ("head", "left", "end", "num_tokens"):
        assert getattr(copy, name) == getattr(short, name)
    assert len(copy) == len(short)
    for tokens in range(0, copy.num_tokens + 2, 3):
        assert copy.first_of_last(tokens) == short.first_of_last(tokens)
        assert copy.first_after(tokens) == short.first_after(tokens)
    assert rows.end == head + sum(lengths)  # which has not changed
