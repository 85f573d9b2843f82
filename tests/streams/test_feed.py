"""A feed sends rows once and in order, and what it took and did not send is there to see."""

import threading

import pytest

from workbench.errors import RowError
from workbench.streams.feed import Feed
from workbench.waiting import Completion


class Sink:
    """Takes ticks of rows, but for those that are refused."""

    def __init__(self, refused=()):
        self.ticks, self.refused = [], refused

    def __call__(self, rows):
        bad = [row for row in rows if row in self.refused]
        if bad:
            raise RowError(f"row {rows.index(bad[0])}: no")
        self.ticks.append(rows)
        done = Completion()
        done.finish(None)
        return done

    @property
    def rows(self):
        return [row for tick in self.ticks for row in tick]


def rows(*numbers):
    return [{"time": f"2026-01-05T09:{number:02}", "n": number} for number in numbers]


def test_ticks_have_as_many_rows_as_asked():
    sink = Sink()
    feed = Feed(iter(rows(*range(7))), sink, every=3, progress=False)
    assert feed.wait(10) == 7 and feed.unsent == []
    assert [len(tick) for tick in sink.ticks] == [3, 3, 1] and sink.rows == rows(*range(7))


def test_a_stream_of_an_iterator_that_stops_keeps_what_it_took():
    sink, source = Sink(), iter(rows(*range(50)))
    feed = Feed(source, sink, every=2, rate=1, progress=False)
    feed.stop()
    feed.wait(10)
    assert [*sink.rows, *feed.unsent, *source] == rows(*range(50))


def test_a_stop_is_seen_before_another_row_is_taken():
    sink, taken, go_on = Sink(), threading.Event(), threading.Event()

    def source():
        yield rows(0)[0]
        taken.set()
        assert go_on.wait(10)
        yield rows(1)[0]
        raise AssertionError("asked for a row after it was told to stop")

    feed = Feed(source(), sink, every=3, progress=False)
    assert taken.wait(10)
    feed.stop()
    go_on.set()
    assert feed.wait(10) == 0
    assert feed.unsent == rows(0, 1)


def test_a_source_that_gives_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("workbench.streams.feed.QUIET_S", 0.01)
    sink, taken, go_on = Sink(), threading.Event(), threading.Event()

    def source():
        yield from rows(0, 1, 2)
        taken.set()
        assert go_on.wait(60)
        yield rows(3)[0]
        raise AssertionError("asked for a row after it was told to stop")

    feed = Feed(source(), sink, every=2, progress=False)
    assert taken.wait(10)
    feed.stop()
    assert feed.wait(10) == 2 and feed.done and feed.error is None
    assert sink.rows == rows(0, 1) and feed.unsent == rows(2)
    go_on.set()
    feed._thread.join(10)
    assert sink.rows == rows(0, 1) and feed.unsent == rows(2, 3)  # that one is not lost either


def test_a_feed_that_is_stopped_sends_nothing_whatever_the_next_row_is():
    sink, taken, go_on = Sink(), threading.Event(), threading.Event()

    def source():
        yield rows(0)[0]
        taken.set()
        assert go_on.wait(10)
        yield {"n": 1}  # has no time

    feed = Feed(source(), sink, every=5, speed="60x", progress=False)
    assert taken.wait(10)
    feed.stop()
    go_on.set()
    assert feed.wait(10) == 0 and sink.rows == [] and feed.unsent == [*rows(0), {"n": 1}]


@pytest.mark.parametrize("every", [1, 5])
def test_behind_a_row_at_fault_nothing_of_its_tick_is_lost(every):
    sink, source = Sink(refused=rows(2)), iter(rows(*range(12)))
    feed = Feed(source, sink, every=every, progress=False)
    with pytest.raises(RowError, match="after 2 rows of the stream"):
        feed.wait(10)
    assert feed.rows_sent == 2 and sink.rows == rows(0, 1)
    assert feed.unsent[0] == rows(2)[0]
    assert [*sink.rows, *feed.unsent, *source] == rows(*range(12))


def test_rows_before_one_without_a_time_are_sent():
    sink = Sink()
    bad = {"time": 1e15, "n": 3}
    feed = Feed([*rows(0, 1, 2), bad, *rows(4, 5)], sink, every=4, speed="3600x", progress=False)
    with pytest.raises(RowError, match="after 3 rows of the stream: speed= takes a number"):
        feed.wait(10)
    assert sink.rows == rows(0, 1, 2) and feed.unsent == [bad]


def test_an_error_of_the_source_comes_after_the_rows_before_it():
    sink = Sink()

    def source():
        yield from rows(0, 1)
        raise OSError("the line is dead")

    feed = Feed(source(), sink, every=4, progress=False)
    with pytest.raises(OSError, match="the line is dead"):
        feed.wait(10)
    assert sink.rows == rows(0, 1)
