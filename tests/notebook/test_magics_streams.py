"""Streams and flash queries from a notebook's cells."""

import itertools
import threading

import pytest

import workbench as wb
from workbench.errors import (
    OptionsError,
    QuestionError,
    RowError,
)


def test_a_stream_goes_on_in_the_background(opened, engine, eventually):
    go = threading.Event()

    def rows():
        yield {"a": 1.0}
        go.wait(60)
        yield {"a": 2.0}

    opened["rows"] = rows
    feed = opened.run("feed = %stateful stream btc rows() --every 1\nfeed")
    assert not feed.done and feed is opened["feed"]
    eventually(lambda: engine.session("btc").version == 1)
    assert opened.run("%stateful ask btc Up? --max-tokens 1").version == 1
    go.set()
    feed.wait(60)
    assert engine.session("btc").rows == 2


def test_streams_are_ended_by_the_session(opened, engine):
    opened["rows"] = lambda: ({"a": float(i)} for i in itertools.count())
    feed = opened.run("%stateful stream btc rows() --rate 50")
    with pytest.raises(OptionsError, match="no stream runs into 'eth'"):
        opened.run("%stateful open eth --cells 64\n%stateful stream --end")
    opened.run("%stateful stream btc --end")
    feed.join(60)
    with pytest.raises(OptionsError, match="no stream runs into 'btc'"):
        opened.run("%stateful stream btc --end")
    own = engine.session("btc").stream(opened["rows"](), rate=50, progress=False)
    opened.run("%stateful stream btc --end")  # one begun in Python as well
    own.join(60)


def test_a_cell_streams_and_registers(opened, engine):
    opened["bars"] = [{"o": 1.0 + i, "h": 2.0 + i, "l": 0.5, "c": 1.5, "time": i} for i in range(6)]
    (query,) = opened.run("%%stateful btc --stream bars --flash --choices up,down\nUp?")
    assert query.wait(60).choice in ("up", "down")
    engine.session("btc").flush(60)


def test_a_cell_that_cannot_ask_streams_nothing(opened, engine, monkeypatch):
    started = []
    real = wb.Session.stream

    def stream(self, *args, **keywords):
        started.append(real(self, *args, **keywords))
        return started[-1]

    monkeypatch.setattr(wb.Session, "stream", stream)
    monkeypatch.setattr(wb.Session, "ask_start", lambda *a, **k: 1 / 0)
    opened["rows"] = lambda: ({"a": float(i)} for i in itertools.count())
    with pytest.raises(ZeroDivisionError):
        opened.run("%%stateful btc --stream rows() --rate 50\nUp?")
    started[0].join(60)


def test_a_stream_that_ends_early_says_so_in_one_line(opened, capsys):
    opened["rows"] = [{"a": 1.0}, {"b": 2.0}]
    feed = opened.run("%stateful stream btc rows")
    feed._thread.join(60)  # nobody waits for the feed
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("workbench:")]
    assert len(said) == 1
    assert "the stream into 'btc' ended early: after 1 row of the stream: row 0" in said[0]
    with pytest.raises(RowError):
        feed.wait(60)


def test_flash_queries_are_listed_paused_and_removed_by_name(opened, engine):
    opened.run("%stateful push btc {'a': 1.0}\n%stateful open eth --cells 256")
    trend = opened.run("%stateful flash btc Is it up? --choices up,down --name trend")
    trend.wait(60)
    opened.run("%stateful flash eth Is it up? --max-tokens 2")
    frame = opened.run("%stateful flashes")
    assert frame["session"].to_list() == ["btc", "eth"]
    assert frame.row(0, named=True)["answer"] == trend.answer.text
    assert opened.run("%stateful flashes eth").height == 1
    assert opened.run("%stateful flash --pause trend") is trend and trend.paused
    assert opened.run("%stateful flashes btc")["state"].to_list() == ["paused"]
    opened.run("%stateful flash --resume trend")
    assert not trend.paused
    opened.run("%stateful flash --remove trend")
    assert engine.session("btc").flash_queries == [] and trend.removed
    opened.run('%stateful flash --remove "Is it up?"')
    assert engine.session("eth").flash_queries == []


def test_a_flash_cell_that_runs_again_registers_no_more(opened, engine, monkeypatch):
    s = engine.session("btc")
    first = opened.run("%stateful flash btc Up? --choices up,down --name trend")
    second = opened.run("%stateful flash btc Down? --choices up,down --name trend")
    assert s.flash_queries == [second] and first.removed
    opened.run("%%stateful btc --flash\nUp?\nDown?")
    opened.run("%%stateful btc --flash\nUp?\nDown?")
    assert [query.name for query in s.flash_queries] == ["trend", "Up?", "Down?"]
    monkeypatch.setattr(wb.Session, "flash", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened.run("%stateful flash btc Up? --name trend")
    assert s.flash_queries[0] is second  # what cannot be registered replaces nothing


def test_flash_queries_of_one_name_in_one_session_go_together(opened, engine):
    s = engine.session("btc")
    both = [s.flash("Up?", choices=["up", "down"], name="trend") for _ in range(2)]
    opened.run("%stateful flash btc --pause trend")
    assert [query.paused for query in both] == [True, True]
    opened.run("%stateful flash --remove trend")
    assert s.flash_queries == [] and all(query.removed for query in both)


def test_a_flash_query_that_is_not_there_or_twice_is_refused(opened):
    opened.run("%stateful open eth --cells 256")
    for name in ("btc", "eth"):
        opened.run(f"%stateful flash {name} Up? --name trend")
    opened.shell.magics_manager.registry["StatefulMagics"].last = None
    with pytest.raises(QuestionError, match="'trend': 2 are called so; name a session"):
        opened.run("%stateful flash --pause trend")
    assert opened.run("%stateful flash eth --pause trend").session.name == "eth"
    assert opened.run("%stateful flash --resume trend").session.name == "eth"  # used last
    with pytest.raises(QuestionError, match=r"'nope' of session 'btc': there is none .*'trend'"):
        opened.run("%stateful flash btc --pause nope")
