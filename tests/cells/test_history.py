"""Every row and version is found where it ended, however many have left, against plain lists."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.cells.history import UNKNOWN, History, Place

TICKS = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4),
    min_size=1, max_size=25,
)  # fmt: skip


def test_rows_inside_a_tick_end_where_the_next_begins():
    history = History(head=5)
    history.add(10, 2, [0, 4])
    history.add(3, 1, [0])
    assert [history.row(n) for n in range(4)] == [
        Place(5, 0, 0), Place(9, 0, 1), Place(15, 1, 2), Place(18, 2, 3),
    ]  # fmt: skip
    assert history.at_version(1) == Place(15, 1, 2)
    assert history.row(4) is None and history.at_version(3) is None and history.row(-1) is None


def test_without_every_start_only_the_last_row_of_a_tick_is_known():
    history = History(head=0)
    history.add(10, 3, [0])
    assert history.row(1) is None and history.has_row(1)
    assert history.row(3) == Place(10, 1, 3)


@given(TICKS, st.integers(0, 7), st.lists(st.integers(0, 400), max_size=8), st.data())
def test_places_stay_true_as_rows_leave(ticks, head, leaves, data):
    history = History(head)
    rows, versions, end, gone = [(head, 0)], [(head, 0)], head, -1
    for version, tick in enumerate(ticks, start=1):
        starts, at = [], 0
        for i, (length, known) in enumerate(tick):
            starts.append(at if known or i == 0 else UNKNOWN)
            at += length
        history.add(at, len(tick), starts)
        for i in range(len(tick)):
            last = i + 1 == len(tick)
            place = end + (at if last else starts[i + 1]) if last or starts[i + 1] >= 0 else None
            rows.append((place, version if last else version - 1))
        end += at
        versions.append((end, len(rows) - 1))
        if leaves and data.draw(st.booleans()):
            place = min(leaves.pop(), end)
            gone = max(gone, place)
            history.leave(place)
    assert (history.rows, history.version) == (len(rows) - 1, len(versions) - 1)
    for number, (place, version) in enumerate(rows):
        found = history.row(number)
        if place is None:
            assert found is None
        elif place > gone:
            assert found == Place(place, version, number)
        else:
            assert found in (None, Place(place, version, number))
    for number, (place, count) in enumerate(versions):
        found = history.at_version(number)
        want = Place(place, number, count)
        assert found == want if place > gone else found in (None, want)


def test_memory_is_bounded_when_rows_leave():
    history = History(head=2)
    for tick in range(10_000):
        history.add(4, 2, [0, 2])
        history.leave(2 + 4 * (tick - 50))
    assert len(history._row_ends) < 500 and len(history._version_ends) < 250
    assert history.row(20_000) == Place(40_002, 10_000, 20_000)
    assert history.row(1) is None


@given(TICKS, st.integers(0, 7), st.integers(0, 400), st.data())
def test_a_copy_until_a_row_is_what_came_until_then(ticks, head, left, data):
    """Against a history that never read more; rows of a tick cut short are a version."""
    history = History(head)
    for tick in ticks:
        _read(history, [length for length, _ in tick])
    history.leave(min(left, head + sum(length for tick in ticks for length, _ in tick)))
    rows = [n for n in range(history.rows + 1) if history.row(n) is not None]
    end = history.row(data.draw(st.sampled_from(rows)))
    copy, short, count = history.until(end), History(head), 0
    for tick in ticks:
        kept = [length for length, _ in tick][: end.rows - count]
        count += len(kept)
        if kept:
            _read(short, kept)
    assert copy.rows == short.rows == end.rows and copy.version == short.version
    more = data.draw(st.lists(st.integers(1, 9), max_size=3))
    for grown in (copy, short, history):  # the copy goes on by itself
        if more:
            _read(grown, more)
    for n in rows:
        if n <= end.rows:
            assert copy.row(n) == short.row(n)
    for n in range(end.rows, short.rows + 1):
        assert copy.row(n) == short.row(n)
    assert copy.at_version(copy.version) == short.at_version(short.version)
    assert short.version == copy.version and not copy.has_row(copy.rows + 1)


def _read(history, lengths):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    history.add(sum(lengths), len(lengths), starts)
