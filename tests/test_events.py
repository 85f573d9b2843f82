"""Fan-out: everyone gets everything, and one bad subscriber harms nobody."""

from workbench.events import Committed, Events, SessionClosed


def test_every_subscriber_gets_every_event_until_it_leaves():
    events, one, two = Events(), [], []
    leave = events.subscribe(one.append)
    events.subscribe(two.append)
    first = SessionClosed(session="a")
    events.emit(first)
    leave()
    leave()
    second = SessionClosed(session="b")
    events.emit(second)
    assert one == [first] and two == [first, second]
    assert first.time > 0


def test_a_subscriber_that_raises_is_dropped_and_named(capsys):
    events, seen = Events(), []

    def broken(event):
        seen.append(event)
        raise ValueError("mine")

    events.subscribe(broken)
    events.subscribe(seen.append)
    event = Committed(session="s", version=1, position=2, rows=1, lag_s=0.1)
    events.emit(event)
    events.emit(event)
    assert seen == [event] * 3
    assert "ValueError('mine') and was unsubscribed" in capsys.readouterr().err
