"""The queue between producers and the engine keeps every token, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import Cancelled, SessionClosed, SessionFaulted, TickDropped
from workbench.tick import Tick, TickQueue

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 9)),
        st.tuples(st.just("hold"), st.integers(0, 15)),
        st.tuples(st.just("take"), st.integers(0, 15)),
    ),
    max_size=40,
)


def consumed(queue, num_tokens):
    """The ticks that are whole by that."""
    finished = []

    def whole(tick):
        assert queue.last(from_stream=False) is not None  # until it has been told, it is there
        finished.append(tick)

    queue.consume(num_tokens, whole)
    return finished


@given(ACTIONS, st.sampled_from(["raise", "drop_oldest"]))
def test_tokens_come_out_as_they_went_in(actions, on_full):
    queue = TickQueue("s", 1000 if on_full == "raise" else 4, on_full)
    ticks, taken, held, number = [], [], [], 0
    for action, size in actions:
        if action == "put":
            tick = Tick(list(range(number, number + size)), 1)
            number += size
            ticks.append(tick)
            queue.dropped(queue.put(tick))
        elif action == "hold":  # whatever comes now, they are what the engine will take
            held = queue.hold(size)
        else:
            ids = held[:size] or queue.hold(size)
            held = []
            taken += ids
            for tick in consumed(queue, len(ids)):
                tick.version = 1
                tick.finish()
    dropped = [t for t in ticks if isinstance(t.error, TickDropped)]
    assert sum(t.rows for t in dropped) == queue.dropped_rows
    kept = [i for t in ticks if t not in dropped for i in t.token_ids]
    assert taken + queue.hold(queue.tokens) == kept
    assert queue.accepted_tokens == len(kept)
    assert queue.rows == sum(not t.done for t in ticks) == len(queue.waiting())


def test_a_tick_that_is_half_in_is_not_dropped():
    queue = TickQueue("s", 1, "drop_oldest")
    first, second, third = (Tick([1, 2, 3], 1) for _ in range(3))
    queue.put(first)
    assert consumed(queue, 1) == []
    queue.put(second)
    assert queue.put(third) == [second] and not second.done
    queue.dropped([second])
    assert not first.done and isinstance(second.error, TickDropped) and not third.done


def test_ticks_that_are_being_computed_are_not_dropped():
    queue = TickQueue("s", 2, "drop_oldest")
    first, second, third, fourth = ticks = [Tick([n, n, n], 1) for n in range(4)]
    queue.put(first)
    queue.put(second)
    assert queue.hold(4) == [0, 0, 0, 1]
    assert queue.put(third) == []
    assert queue.put(fourth) == [third]
    assert queue.waiting() == [ticks[0], ticks[1], ticks[3]]
    assert consumed(queue, 4) == [first]
    assert queue.hold(9) == [1, 1, 3, 3, 3]
    queue.hold(0)
    assert queue.put(Tick([4], 1)) == [fourth]  # the second is begun, it is not any more
    assert queue.hold(9) == [1, 1, 4]


def test_rows_that_nobody_has_read_can_be_taken_back():
    queue, released = TickQueue("s", 9, "raise"), []
    queue.after_take_back = lambda: released.append(queue.rows)
    first, second, third = ticks = [Tick([n, n, n], 2) for n in range(3)]
    assert not first.cancel()  # nobody has queued it
    for tick in ticks:
        queue.put(tick)
    assert queue.hold(4) == [0, 0, 0, 1]
    assert not first.cancel() and not second.cancel() and third.cancel()
    assert released == [4] and queue.tokens == queue.accepted_tokens == 6
    with pytest.raises(Cancelled, match="its 2 rows were taken back"):
        third.wait(0)
    queue.hold(0)
    assert consumed(queue, 1) == [] and not first.cancel()
    assert second.cancel() and consumed(queue, 2) == [first]
    assert queue.rows == queue.tokens == 0 and not first.cancel()
    assert all(tick.queue is None for tick in ticks)


def test_a_fault_is_told_and_taken_back():
    queue = TickQueue("s", 9, "block")
    tick = Tick([1], 1)
    queue.put(tick)
    queue.fault(SessionFaulted("broken"))
    with pytest.raises(SessionFaulted):
        tick.wait(0)
    with pytest.raises(SessionFaulted):
        queue.put(Tick([2], 1))
    queue.mend()
    assert not tick.done and queue.hold(1) == [1]
    queue.put(Tick([2], 1))
    queue.close()
    with pytest.raises(SessionClosed, match="open it again"):
        tick.wait(0)
    with pytest.raises(SessionClosed):
        queue.put(Tick([3], 1))
    assert repr(tick) == "Tick(1 rows, 1 tokens, queued)"


def test_waiting_times_out_and_goes_on():
    tick = Tick([1], 1)
    with pytest.raises(TimeoutError, match="not done after 0.01 s; it goes on"):
        tick.wait(0.01)
