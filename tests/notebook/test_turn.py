import asyncio
import threading
import types

import pytest

from workbench.answer import Answer
from workbench.backtest import IN_FLIGHT, Backtest
from workbench.errors import Cancelled, QuestionError, RowError
from workbench.notebook.turn import Turn, add_await


class Canvas:
    def __init__(self):
        self.pictures = []

    def show(self, answer):
        self.pictures.append((answer.text, answer.done))


def test_a_plain_value_is_complete_at_once():
    turn = Turn(5)
    assert turn.done and turn.result() == 5 and repr(turn) == "5"
    assert asyncio.run(_awaited(turn)) == 5


def test_a_turn_hands_its_values_attributes_on(engine):
    turn = Turn(engine.open("a"))
    assert turn.name == "a"
    turn.push("row one")
    asked = Turn(turn.ask_start("Up?", max_tokens=2))
    assert len(asked.token_ids) == 2  # it was waited for
    with pytest.raises(AttributeError):
        _ = turn._repr_html_


def test_an_answer_is_drawn_as_it_comes_and_once_more_at_its_end():
    answer, canvas = Answer("Up?", "btc"), Canvas()
    turn = Turn(answer, canvas)
    assert repr(turn) == "Turn(Answer('', under way); await it or call result())"

    async def ask():
        waiting = asyncio.ensure_future(turn._wait())
        while len(canvas.pictures) < 2:
            answer.show("u")
            await asyncio.sleep(0)
        answer.show("up")
        answer.end("stop")
        return await waiting

    assert asyncio.run(ask()) is answer
    assert canvas.pictures[0] == ("", False)
    assert canvas.pictures[-1] == ("up", True)


def test_a_turn_that_nobody_awaited_waits_when_it_is_shown(engine):
    s, canvas = engine.open("a"), Canvas()
    s.push("row one")
    turn = Turn(s.ask_start("Up?", max_tokens=3), canvas)
    turn._ipython_display_()
    assert turn.done and canvas.pictures[-1] == (turn.value.text, True)
    wrong = Turn(s.ask_start("Up?", at=9))
    with pytest.raises(QuestionError, match="at=row 9"):
        wrong._ipython_display_()


def test_result_gives_the_answer_and_raises_its_error(engine):
    s = engine.open("a")
    s.push("row one")
    assert Turn(s.ask_start("Up?", max_tokens=3)).result(60).finish_reason == "length"
    failed = Answer("Up?", "a")
    failed.end("error", QuestionError("no"))
    with pytest.raises(QuestionError, match="no"):
        Turn(failed).result()


def test_result_gives_up_after_its_timeout_and_the_answer_goes_on():
    answer = Answer("Up?", "a")
    with pytest.raises(TimeoutError, match="it goes on"):
        Turn(answer).result(0.02)
    assert not answer.cancelled


def test_an_interrupt_of_a_waiting_cell_cancels_and_keeps_the_text():
    answer, canvas = Answer("Up?", "a"), Canvas()
    answer.asks_with([], lambda: answer.end("cancelled", Cancelled("stopped")))
    turn = Turn(answer, canvas)
    answer.show("partial")

    async def interrupted():
        waiting = asyncio.ensure_future(turn._wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return "the loop goes on"

    assert asyncio.run(interrupted()) == "the loop goes on"
    assert answer.cancelled and answer.text == "partial"
    assert canvas.pictures[-1] == ("partial", True)


def test_an_interrupt_takes_rows_back_unless_they_are_being_read(make_engine):
    session = make_engine(start=False).open("s", cells=200)
    tick = session.push("row")
    begun = session.push("more")
    session.ingest.ticks.hold(99)

    def interrupted(value):
        async def run():
            waiting = asyncio.ensure_future(Turn(value)._wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await waiting
            return caught.value._render_traceback_()[0]

        return asyncio.run(run())

    assert interrupted(begun).endswith("the rows are being read and will be visible; "
                                       "close the session to end that")  # fmt: skip
    session.ingest.ticks.hold(0)
    assert interrupted(tick) == "CancelledError: stopped, none of the rows were taken"
    assert session.pending_rows == 1 and isinstance(tick.error, Cancelled)


def test_an_answer_that_takes_too_long_is_a_timeout():
    answer = Answer("Up?", "a")
    answer.asks_with([], lambda: answer.end("cancelled", Cancelled("stopped")))

    async def hurried():
        async with asyncio.timeout(0.02):
            await Turn(answer)

    with pytest.raises(TimeoutError):
        asyncio.run(hurried())
    assert answer.cancelled


@pytest.mark.parametrize("cell", [
    "%%time\na = %stateful ask btc Up? --max-tokens 1",
    "%%capture\na = %stateful ask btc Up? --max-tokens 1",
    "%time a = %stateful ask btc Up? --max-tokens 1",
    "get_ipython().run_cell('a = %stateful ask btc Up? --max-tokens 1').raise_error()",
])  # fmt: skip
def test_code_that_another_magic_runs_has_the_value(ip, engine, cell):
    engine.open("btc").push("row")
    ip.run(cell)
    assert isinstance(ip["a"], Answer) and ip["a"].done
    before = engine.stats().answers
    assert ip.run("%timeit -n3 -r 1 -o %stateful ask btc Up? --max-tokens 1").loops == 3
    assert engine.stats().answers == before + 3


def test_a_cell_that_awaits_runs_others_all_the_same(ip, engine):
    engine.open("btc").push("row")
    ip.run(
        "import asyncio\nawait asyncio.sleep(0)\n"
        "get_ipython().run_cell_magic('capture', '', '%stateful push btc [\"one\", \"two\"]')"
    )
    assert engine.session("btc").rows == 3


def test_an_interrupt_of_result_cancels(monkeypatch):
    answer = Answer("Up?", "a")
    answer.asks_with([], lambda: answer.end("cancelled", Cancelled("stopped")))

    def interrupt(self, timeout):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Answer, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Turn(answer).result()
    assert answer.finish_reason == "cancelled"


def test_a_backtest_is_drawn_on_its_way_and_an_interrupt_keeps_its_answers(stepped, run_dry):
    s = stepped.open("a", cells=1000)
    for number in range(IN_FLIGHT + 8):
        s.push(f"{number}")
        run_dry(stepped)
    test = s.backtest_start("Up?", choices=["up", "down"], every=1)
    while not test.answered:
        stepped.step()
    pictures = []

    class Board:
        def show(self, value):
            pictures.append((value.answered, value.finish_reason))

    turn = Turn(test, Board())

    def interrupt(timeout):
        test.join = joined
        raise KeyboardInterrupt

    joined, test.join = test.join, interrupt
    test.cancel = lambda: (Backtest.cancel(test), run_dry(stepped))
    with pytest.raises(KeyboardInterrupt) as stopped:
        turn.result()
    assert stopped.value._render_traceback_() == [
        "KeyboardInterrupt: stopped, what has arrived stays"
    ]
    assert test.finish_reason == "cancelled" and test.frame.height == test.answered
    assert 0 < test.answered < test.total == IN_FLIGHT + 8
    assert pictures[0] == (test.answered, None) and pictures[-1] == (test.answered, "cancelled")


def test_a_backtest_is_waited_for(engine):
    s = engine.open("a")
    for number in range(6):
        s.push(f"row {number}")
    turn = Turn(s.backtest_start("Up?", choices=["up", "down"], every=2))
    assert not turn.done or turn.value.done
    test = asyncio.run(_awaited(turn))
    assert test.finish_reason == "done" and test.frame["row"].to_list() == [2, 4, 6]


def test_a_stream_is_not_waited_for(engine):
    s = engine.open("a")
    go = threading.Event()

    def rows():
        yield "one"
        go.wait(60)
        yield "two"

    feed = s.stream(rows(), progress=False)
    turn = Turn(feed)
    assert turn.done and asyncio.run(_awaited(turn)) is feed is turn.result()
    assert not feed.done
    go.set()
    assert feed.wait(60) == 2


def test_a_stream_that_failed_does_not_fail_the_turn(engine):
    feed = engine.open("a").stream([5], progress=False)
    with pytest.raises(RowError):
        feed.wait(60)
    assert Turn(feed).result() is feed


def test_a_tick_is_waited_for(engine):
    tick = engine.open("a").push("row one")
    assert asyncio.run(_awaited(Turn(tick))).version == 1


CALL = "get_ipython().run_line_magic('stateful', 'list')"


@pytest.mark.parametrize(
    ("cell", "awaited"),
    [
        (CALL, f"await {CALL}"),
        (f"x = {CALL}", f"x = await {CALL}"),
        (f"for i in x:\n    {CALL}", f"for i in x:\n    await {CALL}"),
        (f"é = 'ü'; y = {CALL}", f"é = 'ü'; y = await {CALL}"),
        (f't = """a\u2028b\x0cc"""\ny = {CALL}', f't = """a\u2028b\x0cc"""\ny = await {CALL}'),
        (f"def f():\n    return {CALL}", None),
        (f"f = lambda: {CALL}", None),
        (f"await {CALL}", None),
        (f's = """{CALL}"""', None),
        (f"x = ({CALL}", None),  # not complete yet: IPython asks again later
        ("get_ipython().run_line_magic('time', '')", None),
    ],
)
def test_await_is_written_where_it_may_stand(cell, awaited):
    assert "".join(add_await(cell.splitlines(keepends=True))) == (awaited or cell)


async def _awaited(turn):
    return await turn


def test_where_nothing_may_be_awaited_the_result_is_waited_for(monkeypatch):
    shell = types.SimpleNamespace(autoawait=False)
    monkeypatch.setattr("workbench.notebook.turn.get_ipython", lambda: shell)
    assert add_await([f"x = {CALL}"]) == [f"x = {CALL}.result()"]
