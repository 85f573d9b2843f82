"""Equal beginnings are found token by token, against comparing every pair of logs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cells.line import STRETCH, Line
from workbench.cells.pool import CellPool
from workbench.cells.prefix import PrefixIndex
from workbench.cells.sequence import Sequence

CELLS = 4096


def line(pool: CellPool, ids: list[int], computed: int | None = None) -> Line:
    made = Line(Sequence(pool), ids)
    made.sequence.grow(max(len(ids), 1))
    made.sequence.length = len(ids) if computed is None else computed
    return made


def empty(pool: CellPool) -> Line:
    return Line(Sequence(pool))


def test_an_empty_line_finds_whoever_begins_as_it_wants_to():
    pool, index = CellPool(CELLS), PrefixIndex()
    other = line(pool, [1, 2, 3, 4])
    index.add(other)
    assert index.match(empty(pool), [1, 2, 9]) == (other, 2)
    assert index.match(empty(pool), [1, 2, 3, 4, 5]) == (other, 4)
    assert index.match(empty(pool), [9]) is None


def test_only_computed_tokens_count():
    pool, index = CellPool(CELLS), PrefixIndex()
    other = line(pool, list(range(100)), computed=40)
    index.add(other)
    assert index.match(empty(pool), list(range(100))) == (other, 40)
    other.sequence.length = 90
    index.note(other)
    assert index.match(empty(pool), list(range(100))) == (other, 90)


def test_the_history_must_be_equal_to_the_last_token():
    pool, index = CellPool(CELLS), PrefixIndex()
    index.add(line(pool, [7] * (STRETCH + 3) + [5]))
    assert index.match(line(pool, [7] * (STRETCH + 2)), [7, 5]) is not None
    assert index.match(line(pool, [7] * (STRETCH + 2) + [8]), [5]) is None
    assert index.match(line(pool, [8] + [7] * (STRETCH + 2)), [5]) is None


def test_the_longest_match_wins_and_a_removed_line_is_gone():
    pool, index = CellPool(CELLS), PrefixIndex()
    short, long = line(pool, list(range(STRETCH + 5))), line(pool, list(range(STRETCH + 50)))
    index.add(short)
    index.add(long)
    mine = line(pool, list(range(STRETCH + 2)))
    want = list(range(STRETCH + 2, STRETCH + 80))
    assert index.match(mine, want) == (long, STRETCH + 50)
    index.remove(long)
    assert index.match(mine, want) == (short, STRETCH + 5)
    index.remove(short)
    index.remove(short)
    assert index.match(mine, want) is None
    assert len(index) == 0


def test_links_of_the_chain_go_with_the_last_line_that_has_them():
    pool, index = CellPool(CELLS), PrefixIndex()
    lines = [line(pool, list(range(4 * STRETCH))) for _ in range(3)]
    for one in lines:
        index.add(one)
    for one in lines:
        index.remove(one)
    assert index._lines == {b"": {}}


LOGS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3 * STRETCH), st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(LOGS, st.integers(0, 2 * STRETCH), st.integers(1, 2 * STRETCH))
def test_matches_equal_a_comparison_of_all_logs(shapes, start, want):
    """Logs agree with one long log up to a point of their own, then differ."""
    pool, index = CellPool(CELLS), PrefixIndex()
    common = [i * i % 11 for i in range(8 * STRETCH)]
    lines = []
    for differ, length, kind in shapes:
        at = differ * STRETCH // 2
        ids = common[:length] if kind == 0 else [*common[:at], 99 + kind, *common[at:length]]
        lines.append(line(pool, ids))
        index.add(lines[-1])
    mine = line(pool, common[:start])
    upcoming = common[start : start + want]
    best = 0
    for other in lines:
        ids = list(other.token_ids)
        same = 0
        while same < min(len(ids), start + want) and ids[same] == common[same]:
            same += 1
        best = max(best, same - start)
    match = index.match(mine, upcoming)
    assert (match.end - start if match else 0) == max(best, 0)
