"""Pushing, asking, streaming as a person does it; bad input says what to do and loses nothing."""

import asyncio
import datetime as dt
import gc
import math
import threading
import time
import traceback
import weakref
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

import workbench as wb
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    EngineClosed,
    QuestionError,
    QueueFull,
    RowError,
    SessionClosed,
    TickDropped,
    WorkbenchError,
)
from workbench.testing import assert_recomputes, run_until_idle, tiny_model

BARS = [{"o": 1.0 + i, "h": 2.0 + i, "l": 0.5 + i, "c": 1.5 + i, "v": 10 + i} for i in range(4)]


def test_the_main_path(engine):
    """One tick, one question, one flash answer: read this first."""
    session = engine.open("s", prompt="You watch.", schema="ohlcv", cells=600)
    assert session.push(BARS[0]).wait(30) == 1
    answer = session.ask("Is it up?", max_tokens=4, timeout=30)
    assert answer.version == 1 and answer.row == 1 and answer.position == session.position
    assert 0 <= answer.queue_ms <= answer.ttft_ms <= answer.total_ms
    assert_recomputes(engine.decoder.model, answer, 1e-4)
    query = session.flash("Is it up?", choices=["up", "down"])
    session.push(BARS[1:])
    assert session.flush(30) == 2
    assert query.wait(30).version == 2
    served = session.ask("Is it up?", choices=["up", "down"])
    assert served.from_flash and served.version == 2 and served.choice == query.answer.choice
    assert_recomputes(engine.decoder.model, served, 1e-4)


@pytest.mark.parametrize("data", [
    BARS[0], BARS, pl.DataFrame(BARS), pl.LazyFrame(BARS), pd.DataFrame(BARS), tuple(BARS),
    iter(BARS),
], ids=["dict", "list", "polars", "lazy", "pandas", "tuple", "iterator"])  # fmt: skip
def test_every_kind_of_rows_reads_the_same(make_engine, data):
    engine = make_engine(start=False)
    session = engine.open("s", schema="ohlcv", cells=600)
    tick = session.push(data)
    run_until_idle(engine)
    rows = BARS[:1] if isinstance(data, dict) else BARS
    want = engine.open("t", schema="ohlcv", cells=600).schema.render(rows)
    assert engine.tokens.text(session.token_ids) == want
    assert tick.rows == session.rows == len(rows) and tick.version == 1


def test_texts_are_rows_of_their_own(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200)
    session.push("a line")
    session.push(["two", b"three\n"])
    run_until_idle(engine)
    assert engine.tokens.text(session.token_ids) == "a line\ntwo\nthree\n"
    assert (session.rows, session.version) == (3, 2)


def test_an_empty_push_is_nothing(make_engine):
    session = make_engine(start=False).open("s", schema="ohlcv", cells=200)
    assert session.push([]).wait(0) == 0
    assert session.push(pl.DataFrame(BARS).head(0)).wait(0) == 0
    assert session.pending_rows == 0


NAN = float("nan")


@pytest.mark.parametrize(("data", "message"), [
    ({**BARS[0], "x": 1}, "x"),
    ({"o": 1.0}, "h"),
    ({**BARS[0], "c": NAN}, "c"),
    ({**BARS[0], "c": None}, "c"),
    ([BARS[0], {**BARS[0], "h": NAN}], "row 1"),
    (b"caf\xe9", "byte 0xe9 at 3"),
    ("a\udcffb", "not valid Unicode"),
    ("  ", "text is empty"),
    (42, "got int"),
    ([BARS[0], "text"], "dict, str"),
    (None, "got NoneType"),
])  # fmt: skip
def test_a_bad_row_is_refused_and_nothing_of_its_push_is_taken(make_engine, data, message):
    engine = make_engine(start=False)
    session = engine.open("s", schema="ohlcv", cells=600)
    with pytest.raises(RowError, match=message) as caught:
        session.push(data)
    assert "\n" not in str(caught.value)
    assert session.pending_rows == 0
    good = session.push(BARS[0])
    run_until_idle(engine)
    assert good.version == 1 and session.rows == 1


def test_a_push_beyond_the_budget_is_refused_whole(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=20)
    session.push("0123456789")
    with pytest.raises(CellsExhausted, match="needs 11 cells for 1 rows, 9 of its 20 are left"):
        session.push("0123456789")
    session.push("01234567")
    run_until_idle(engine)
    assert session.rows == 2 and session.cells_used == 20 == session.position
    answer = session.ask_start("full, and asked?", max_tokens=3)
    run_until_idle(engine)
    assert_recomputes(engine.decoder.model, answer.result(), 1e-4)


def test_a_full_queue_raises(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200, max_pending=2, on_full="raise")
    session.push("1"), session.push("2")
    with pytest.raises(QueueFull, match="2 of at most 2 rows queued and 1 more came"):
        session.push("3")
    run_until_idle(engine)
    session.push("3")
    run_until_idle(engine)
    assert engine.tokens.text(session.token_ids) == "1\n2\n3\n"


def test_a_full_queue_drops_the_oldest_and_counts_them(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200, max_pending=2, on_full="drop_oldest")
    ticks = [session.push(str(i)) for i in range(5)]
    run_until_idle(engine)
    assert engine.tokens.text(session.token_ids) == "3\n4\n"
    assert session.dropped_rows == 3 == engine.stats().dropped_rows
    with pytest.raises(TickDropped):
        ticks[0].wait(0)
    assert ticks[4].wait(0) == 2


@pytest.mark.parametrize("max_pending", [1, 2, 3])
def test_rows_that_a_step_is_computing_are_not_dropped(make_engine, monkeypatch, max_pending):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400, max_pending=max_pending, on_full="drop_oldest")
    ticks = [session.push("0")]
    forward = engine.decoder.forward

    def while_others_push(step):
        if len(ticks) < 16:
            ticks.extend(session.push(str(len(ticks))) for _ in range(5))
        return forward(step)

    monkeypatch.setattr(engine.decoder, "forward", while_others_push)
    run_until_idle(engine)
    kept = [str(n) for n, tick in enumerate(ticks) if not isinstance(tick.error, TickDropped)]
    assert kept[0] == "0" and kept[-1] == "15" and all(tick.done for tick in ticks)
    assert engine.tokens.text(session.token_ids).split() == kept
    assert session.version == len(kept) and session.dropped_rows == 16 - len(kept) > 0


def test_a_full_queue_blocks_until_there_is_room(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400, max_pending=1)
    session.push("1")
    pushed = threading.Event()
    thread = threading.Thread(target=lambda: (session.push("2"), pushed.set()), daemon=True)
    thread.start()
    assert not pushed.wait(0.1)
    run_until_idle(engine)
    assert pushed.wait(30)
    run_until_idle(engine)
    assert engine.tokens.text(session.token_ids) == "1\n2\n"


def test_closing_wakes_a_blocked_push(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400, max_pending=1)
    session.push("1")
    errors = []

    def push():
        try:
            session.push("2")
        except SessionClosed as error:
            errors.append(error)

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    session.close()
    thread.join(30)
    assert len(errors) == 1


def test_a_push_larger_than_the_queue_is_taken(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400, max_pending=2, on_full="raise")
    session.push([str(i) for i in range(10)])
    run_until_idle(engine)
    assert session.rows == 10


@pytest.mark.parametrize(("options", "message"), [
    ({"question": ""}, "question is empty"),
    ({"question": 7}, "got int"),
    ({"choices": ["up"]}, "at least two different"),
    ({"choices": "up"}, "at least two different"),
    ({"choices": ["up", "up"]}, "at least two different"),
    ({"choices": ["up", ""]}, "has no tokens"),
    ({"max_tokens": 0}, "at least 1"),
    ({"choices": 5}, "at least two different"),
    ({"choices": [1, 2]}, "at least two different"),
    ({"stop": [""]}, "non-empty"),
    ({"stop": 5}, "expected texts"),
    ({"temperature": -1}, "at least 0"),
])  # fmt: skip
def test_bad_questions(make_engine, options, message):
    session = make_engine(start=False).open("s", cells=100)
    with pytest.raises(QuestionError, match=message):
        session.ask(**{"question": "q?", **options})
    if "temperature" not in options:  # flash queries are greedy
        with pytest.raises(QuestionError, match=message):
            session.flash(**{"question": "q?", **options})
    assert session.flash_queries == []


def test_answers_stop_at_stop_strings_and_lengths(make_engine):
    engine = make_engine()
    session = engine.open("s", cells=200)
    session.push("the data")
    whole = session.ask("q?", max_tokens=12, timeout=30)
    assert len(whole.token_ids) == 12 or whole.finish_reason == "stop"
    text = whole.text
    cut = text[3:5]
    stopped = session.ask("q?", max_tokens=12, stop=cut, timeout=30)
    assert stopped.finish_reason == "stop" and stopped.text == text[: text.find(cut)]


def test_text_streams_in_pieces(engine):
    session = engine.open("s", cells=200)
    session.push("the data")
    answer = session.ask_start("q?", max_tokens=12)
    pieces = list(answer)
    assert (
        len(pieces) > 1 and "".join(pieces) == answer.text == session.ask("q?", max_tokens=12).text
    )
    assert [*answer] == [answer.text]


def test_seeded_sampling_repeats(engine):
    session = engine.open("s", cells=200)
    session.push("the data")

    def ask(seed):
        return session.ask("q?", max_tokens=12, temperature=1.5, top_p=0.9, seed=seed).token_ids

    assert ask(1) == ask(1) != ask(2)


def test_coroutines_ask_push_and_stream(engine):
    session = engine.open("s", cells=400)

    async def main():
        assert await session.push("the data") == 1
        one, two = await asyncio.gather(
            session.ask_async("q?", max_tokens=5), session.ask_async("which?", choices=["a", "b"])
        )
        assert one.done and set(two.probabilities) == {"a", "b"}
        pieces = [piece async for piece in session.ask_start("q?", max_tokens=9)]
        assert "".join(pieces)
        slow = session.ask_start("q?", max_tokens=200)
        task = asyncio.ensure_future(slow._result())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.cancelled
        with pytest.raises(QuestionError):
            await session.ask_async("")

    asyncio.run(main())


def test_a_timeout_cancels_the_question(make_engine):
    session = make_engine(start=False).open("s", cells=100)
    with pytest.raises(TimeoutError):
        session.ask("q?", timeout=0.01)


def test_a_stream_delivers_every_row_and_shows_progress(engine, capsys):
    session = engine.open("s", schema="ohlcv", cells=1500)
    feed = session.stream(pl.DataFrame(BARS * 3), every=2)
    assert feed.wait(60) == 12 == session.rows and session.version == 6
    assert "12/12" in capsys.readouterr().err
    assert repr(feed) == "Feed(12 of 12 rows, done)"


@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_stream_ends_at_a_bad_row_and_says_so(engine, every):
    session = engine.open("s", schema="ohlcv", cells=1500)
    feed = session.stream([*BARS, {"o": 1.0}, *BARS], every=every, progress=False)
    with pytest.raises(RowError, match="after 4 rows of the stream: row 0: expected columns"):
        feed.wait(60)
    assert feed.rows_sent == 4 == session.rows
    assert "failed" in repr(feed)


class Panic(BaseException):
    """What polars' panics are to Python."""


@pytest.mark.parametrize("error", [OSError("unplugged"), Panic("index out of bounds")])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_stream_ends_with_its_source_and_keeps_what_came_before(engine, every, error):
    def source():
        yield from BARS
        raise error

    session = engine.open("s", schema="ohlcv", cells=1500)
    feed = session.stream(source(), every=every, progress=False)
    with pytest.raises(type(error), match=str(error)):
        feed.wait(60)
    assert feed.rows_sent == session.rows == 4


def test_a_stream_that_does_not_fit_fills_the_session_to_the_last_row(engine):
    session = engine.open("s", cells=100)
    feed = session.stream([f"row {n:02}" for n in range(50)], every=9, progress=False)
    with pytest.raises(CellsExhausted, match="of its 100 are left"):
        feed.wait(60)
    size = session.position // session.rows
    assert feed.rows_sent == session.rows == 100 // size


def test_a_stream_stops_when_told(engine):
    session = engine.open("s", schema="ohlcv", cells=1500)
    feed = session.stream(BARS * 1000, rate=20, progress=False)
    feed.stop()
    assert feed.wait(30) < 4000
    with pytest.raises(RowError, match="rows per second"):
        session.stream(BARS, rate=0)
    with pytest.raises(RowError, match="'60x'"):
        session.stream(BARS, speed="fast")
    with pytest.raises(RowError, match="every=0: expected a whole number"):
        session.stream(BARS, every=0)
    with pytest.raises(RowError, match="a whole number of rows per tick"):
        session.stream(BARS, every=2.5)
    with pytest.raises(RowError, match="expected one of them"):
        session.stream(BARS, rate=2, speed="60x")
    with pytest.raises(RowError, match=r"the path bars.csv; read it first"):
        session.stream(Path("bars.csv"))

    async def rows():
        yield BARS[0]

    with pytest.raises(RowError, match="async for row in rows"):
        session.stream(rows())
    for single in (BARS[0], "a line of text", 3):
        with pytest.raises(RowError, match=r"push\(row\) takes a single one"):
            session.stream(single)


def test_a_stream_follows_the_rows_own_time(engine):
    start = dt.datetime(2026, 1, 1)
    rows = [{"time": start + dt.timedelta(hours=i), **bar} for i, bar in enumerate(BARS)]
    session = engine.open("s", schema="ohlcv", cells=1500)
    feed = session.stream(rows, speed="3600000x", progress=False)
    assert feed.wait(60) == 4
    bad = session.stream(BARS, speed="2x", progress=False)
    with pytest.raises(RowError, match="use rate="):
        bad.wait(30)


def test_names_are_free_after_closing(engine):
    with engine.open("s", cells=900) as session:
        assert engine.session("s") is session
    assert engine.sessions == {} and session.closed
    assert engine.open("s", cells=900).version == 0


def test_reprs_say_what_matters(engine):
    session = engine.open("s", cells=600)
    session.push("data").wait(30)
    assert repr(session) == "Session('s', version 1, 1 rows, 5 of 600 cells, 0 flash queries)"
    answer = session.ask("q?", max_tokens=3)
    assert "version 1" in repr(answer) and "TTFT" in repr(answer)
    assert repr(engine).startswith("Engine('LlamaForCausalLM', float32 on cpu, 1 sessions")
    stats = engine.stats()
    assert stats.answers == 1 and stats.ticks == 1 and stats.ttft_ms_p50 > 0
    assert stats.promised_cells == {"s": 600}
    assert wb.current_engine() is engine


def test_the_embedded_model_loads_and_answers():
    with wb.Engine(cells=2048, threads=1) as engine:
        assert engine.model_name == "tape"
        session = engine.open("s", schema="ohlcv", prompt="You watch the tape.", cells=900)
        session.push(BARS)
        answer = session.ask("Is the trend up or down?", choices=["up", "down"], timeout=60)
        # bfloat16 on both sides: see tests/engine/test_compiled.py
        assert_recomputes(engine.decoder.model, answer, 0.3, engine.tokens)


def test_two_models_need_not_agree_on_anything():
    with (
        wb.Engine(tiny_model("gemma2"), cells=512) as one,
        wb.Engine(tiny_model(), cells=512) as two,
    ):
        a, b = one.open("s", cells=100), two.open("s", cells=100)
        a.push("x").wait(30), b.push("y").wait(30)
        assert wb.current_engine() is two
        two.close()
        assert wb.current_engine() is one


def test_a_stopped_stream_is_not_shown_as_failed(engine, monkeypatch):
    from tqdm import tqdm

    ends = []

    class Bar(tqdm):
        def close(self):
            ends.append((self.n, self.total))
            super().close()

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    session = engine.open("s", schema="ohlcv", cells=1000)
    feed = session.stream(BARS * 1000, rate=50)
    while not feed.rows_sent:
        session.flush()
    feed.stop()
    feed.wait(30)
    assert ends == [(feed.rows_sent, feed.rows_sent)]
    with pytest.raises(RowError):
        session.stream([BARS[0], {"o": 1.0}]).wait(30)
    assert ends[1] == (1, 2)


def test_what_ends_a_stream_is_told_to_who_does_not_wait_for_it(engine, capsys):
    session = engine.open("s", schema="ohlcv", cells=400)
    bad = [BARS[0], {"o": 1.0}]
    feed = session.stream(bad, progress=False)
    feed._thread.join(30)
    told = "the stream into 's' ended early: after 1 row of the stream: row 0"
    assert told in capsys.readouterr().err
    assert session.feeds == []
    other = session.stream(iter([BARS[0]]), progress=False, rate=0.5)
    assert session.feeds == [other]
    with pytest.raises(RowError):
        session.stream(bad, progress=False, rate=100).wait(30)
    assert capsys.readouterr().err == ""
    other.stop()
    other.wait(30)


def test_choices_are_scored_and_never_drawn(engine):
    session = engine.open("s", cells=100)
    for sampling in ({"temperature": 0.5}, {"top_p": 0.5}, {"seed": 3}):
        with pytest.raises(QuestionError, match="choices are scored, never drawn"):
            session.ask("Up?", choices=["up", "down"], **sampling)
        with pytest.raises(QuestionError, match="choices are scored, never drawn"):
            engine.generate("Up?", choices=["up", "down"], **sampling)


def test_the_time_per_output_token_is_what_comes_after_the_first(engine):
    session = engine.open("s", cells=100)
    session.push("row")
    answer = session.ask("Up?", max_tokens=3)
    assert answer.tpot_ms == (answer.total_ms - answer.ttft_ms) / 2
    assert math.isnan(session.ask("Up?", max_tokens=1).tpot_ms)
    assert math.isnan(session.ask("Up?", choices=["up", "down"]).tpot_ms)


def test_rows_are_taken_back_and_questions_go_on_without_them(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200)
    kept, gone = session.push("one"), session.push("two")
    asked = session.ask_start("what?", max_tokens=2)  # as of both
    assert gone.cancel() and not gone.cancel()
    run_until_idle(engine)
    assert kept.version == 1 and asked.version == 1 and session.rows == 1
    assert not kept.cancel()
    last = session.push("three")
    asked = session.ask_start("what?", max_tokens=2)
    assert last.cancel()
    run_until_idle(engine)
    assert asked.version == 1 and asked.error is None and session.flush(1) == 1
    with pytest.raises(Cancelled, match="its row was taken back"):
        last.wait(0)


def test_rows_that_were_taken_back_fix_no_columns(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200)
    first, later = session.push({"wrong": 1}), session.push({"wrong": 2})
    assert first.cancel() and session.schema.columns == ("wrong",)
    assert later.cancel() and session.schema.columns is None
    kept = session.push({"right": 1})
    run_until_idle(engine)
    assert kept.version == 1
    assert session.push({"right": 2}).cancel() and session.schema.columns == ("right",)


def test_a_push_that_is_interrupted_fixes_no_columns(make_engine, monkeypatch):
    session = make_engine(start=False).open("s", cells=200)

    def interrupted(tick):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.ingest.ticks, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.push({"oops": 1})
    assert session.schema.columns is None and session.push({"right": 1}).rows == 1


def test_nobody_waits_in_the_engines_own_thread(engine):
    session = engine.open("s", cells=400, max_pending=1)
    query = session.flash("up?", choices=["up", "down"])
    session.push("one").wait(60)
    query.wait(60)
    refused, done = [], threading.Event()

    def note(event):
        if isinstance(event, wb.events.Committed) and not done.is_set():
            acts = [lambda: session.ask("what?", max_tokens=2), lambda: query.wait(),
                    lambda: list(session.ask_start("what?", max_tokens=2)),
                    lambda: [session.push("more") for _ in range(2)],
                    lambda: session.backtest("what?", max_tokens=2, every=1),
                    lambda: session.push("more").wait()]  # fmt: skip
            for act in acts:
                try:
                    act()
                except WorkbenchError as error:
                    refused.append(str(error))
            done.set()

    engine.events.subscribe(note)
    session.push("two").wait(60)
    assert done.wait(60)
    assert len(refused) == 6 and all("engine's own thread" in text for text in refused)
    assert session.ask("what?", max_tokens=2).done  # elsewhere it goes on


def test_an_error_that_is_raised_again_does_not_grow(make_engine):
    engine = make_engine(start=False)
    engine.close()
    lengths = []
    for _ in range(20):
        try:
            engine.generate("what?")
        except WorkbenchError as error:
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
    assert len(lengths) == 20 and len(set(lengths)) == 1


def test_who_gives_up_waiting_is_told_what_became_of_the_question(make_engine):
    session = make_engine(start=False).open("s", cells=100)
    session.push("row")
    said = r"no answer after 0.01 s; the question was cancelled"
    with pytest.raises(TimeoutError, match=said):
        session.ask("what?", timeout=0.01)
    with pytest.raises(TimeoutError, match=said):
        asyncio.run(session.ask_async("what?", timeout=0.01))
    assert not session.ingest.questions


@pytest.mark.parametrize("timeout", ["3", math.nan, True])
def test_a_timeout_that_is_none_is_refused_before_anything_is_asked(make_engine, timeout):
    session = make_engine(start=False).open("s", cells=100)
    for ask in (session.ask, session.ask_stateless):
        with pytest.raises(WorkbenchError, match="expected seconds, or None"):
            ask("what?", timeout=timeout)
    assert not session.ingest.questions


def test_a_timeout_may_be_endless(engine):
    session = engine.open("s", cells=100)
    assert session.push("row").wait(math.inf) == 1
    assert session.ask("what?", max_tokens=1, timeout=math.inf).finish_reason == "length"
    assert session.flash("what?", max_tokens=1).wait(math.inf).version == 1


def test_a_stream_whose_last_rows_were_dropped_is_done(make_engine):
    engine = make_engine(start=False)
    session = engine.open("s", cells=200, max_pending=2, on_full="drop_oldest")
    feed = session.stream([str(n) for n in range(5)], progress=False)
    while feed.rows_sent < 5:
        time.sleep(0.001)
    session.push(["6", "7"])
    assert feed.wait(60) == 5 and feed.error is None and session.dropped_rows == 5


@pytest.mark.parametrize("whose", ["session", "engine"])
def test_a_quiet_source_keeps_nothing_waiting_after_a_close(make_engine, monkeypatch, whose):
    monkeypatch.setattr("workbench.streams.feed.QUIET_S", 0.01)
    engine = make_engine()
    session = engine.open("s", cells=100)
    go_on, taken = threading.Event(), threading.Event()

    def source():
        yield "row"
        taken.set()
        go_on.wait(60)

    feed = session.stream(source(), progress=False)
    assert taken.wait(60)
    feed._last.join(60)
    session.close() if whose == "session" else engine.close()
    with pytest.raises(SessionClosed if whose == "session" else EngineClosed, match="closed"):
        feed.wait(60)
    kept = weakref.ref(session)
    del session
    engine.close()
    gc.collect()
    assert kept() is None
    go_on.set()
    feed._thread.join(60)
