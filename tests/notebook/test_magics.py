import contextlib
import inspect
import itertools
import re
import threading
from pathlib import Path

import polars as pl
import pytest

import workbench as wb
from workbench.errors import (
    CellsExhausted,
    OptionsError,
    QuestionError,
    RowError,
    SessionExists,
    SessionNotFound,
)
from workbench.notebook import magics
from workbench.notebook.commands import CELL, COMMANDS
from workbench.notebook.help import WIDTH
from workbench.notebook.magics import keep_question_mark
from workbench.notebook.turn import Turn
from workbench.streams.frames import to_rows
from workbench.testing import tiny_model


@pytest.fixture
def opened(ip, engine):
    """A shell with a session "btc" of plain rows."""
    ip.run("%stateful open btc")
    return ip


def test_help_is_printed(ip, capsys):
    ip.run("%stateful")
    said = capsys.readouterr().out
    ip.run("%stateful help")
    assert capsys.readouterr().out == said
    assert "  open NAME  " in said and "%%stateful [NAME]" in said


def test_every_command_has_help_with_its_options_and_its_python(ip, capsys):
    for topic, command in [*COMMANDS.items(), ("cell", CELL)]:
        ip.run(f"%stateful help {topic}")
        said = capsys.readouterr().out
        assert command.says in said and f"  {command.python.splitlines()[0]}" in said
        for option in command.options:
            assert f"  {option.name}" in said and option.says in " ".join(said.split())
        assert max(map(len, said.splitlines())) <= WIDTH + 2
    ip.run("%stateful help")
    overview = capsys.readouterr().out
    assert all(f"\n  {name} " in overview for name in COMMANDS)
    assert max(map(len, overview.splitlines())) <= WIDTH


def test_the_docstring_is_what_a_question_mark_shows(ip):
    doc = ip.shell.magics_manager.magics["line"]["stateful"].__doc__
    assert "%stateful ask btc" in doc and "--max-tokens N" in doc


def test_open_uses_the_engine_that_is_open(ip, engine):
    s = ip.run('%stateful open btc --prompt "You watch." --schema ohlcv --cells 512')
    assert s is engine.session("btc")
    assert (s.prompt, s.schema.name, s.budget) == ("You watch.", "ohlcv", 512)


def test_open_opens_an_engine_where_none_is_open(ip, tmp_path, monkeypatch):
    assert wb.current_engine() is None
    model, tokenizer = tiny_model()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    s = ip.run(f"%stateful open btc --model {tmp_path / 'm'}")
    try:
        assert wb.current_engine() is s.engine
        for other in ("other", "m"):  # a name is no folder
            with pytest.raises(OptionsError, match=rf"--model asks for '{other}'; close it with"):
                ip.run(f"%stateful open eth --model {other}")
        monkeypatch.chdir(tmp_path)
        assert ip.run("%stateful open eth --model ./m").engine is s.engine
    finally:
        s.engine.close()
        magics._held.clear()


def test_open_waits_in_line_and_gives_up_in_one_line(ip, engine, capsys):
    most = engine.admission.for_sessions
    ip.run(f"%stateful open btc --cells {most}")
    capsys.readouterr()
    with pytest.raises(CellsExhausted, match=r"'eth' got no cells in 0.05 s \(held: btc"):
        ip.run("%stateful open eth --cells 64 --wait 0.05")
    assert len(capsys.readouterr().out.strip().splitlines()) == 1
    closing = threading.Timer(0.05, engine.session("btc").close)
    closing.start()
    assert ip.run("%stateful open eth --cells 64 --wait 60").budget == 64
    closing.join()


# "Whatever a magic does, two lines of Python do": both are run, and must make the same calls.

METHODS = {
    "open": (wb.Engine, "open"),
    "fork": (wb.Session, "fork"),
    "save": (wb.Session, "save"),
    "restore": (wb.Engine, "restore"),
    "ask": (wb.Session, "ask_start"),
    "push": (wb.Session, "push"),
    "stream": (wb.Session, "stream"),
    "flash": (wb.Session, "flash"),
    "backtest": (wb.Session, "backtest_start"),
    "close": (wb.Session, "close"),
    "use": (wb.Engine, "session"),
    "status": (wb.Engine, "stats"),
}


@pytest.fixture
def calls(monkeypatch):
    """The calls that reach sessions and the engine, with all defaults filled in."""
    made = []

    def record(owner, name):
        real = getattr(owner, name)
        signature = inspect.signature(real)

        def method(self, *args, **keywords):
            bound = signature.bind(self, *args, **keywords)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            for key in ("choices", "data"):
                if given.get(key) is not None:
                    given[key] = to_rows(given[key]) if key == "data" else list(given[key])
            made.append((name, given))
            return real(self, *args, **keywords)

        monkeypatch.setattr(owner, name, method)

    for owner, name in METHODS.values():
        record(owner, name)
    return made


@pytest.mark.parametrize("command", [*sorted(METHODS), "cell"])
def test_a_commands_python_makes_the_calls_that_its_example_makes(
    ip, make_engine, calls, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    entry = CELL if command == "cell" else COMMANDS[command]
    seen = []
    for code in (entry.example, entry.python):
        engine = make_engine()
        ip.run("import workbench as wb")
        ip["engine"], ip["bars"] = engine, BARS
        if command != "open":
            ip["s"] = engine.open("btc", schema="ohlcv")
            ip["s"].push(BARS).wait()
            ip["s"].save("btc.session")
        calls.clear()
        ip.run(code)
        wanted = METHODS["ask" if command == "cell" else command][1]
        seen.append([call for call in calls if call[0] == wanted])
        if command == "stream":
            ip.run("%stateful stream --end" if "%" in code else "feed.stop()")
        engine.close()
    assert seen[0] == seen[1] and len(seen[0]) == 1


BARS = [{"o": 1.0 + i, "h": 2.0 + i, "l": 0.5, "c": 1.5, "time": i} for i in range(6)]

# a value of each option as it is written, and as the method gets it
VALUES = {
    "--prompt": ('"Watch."', "Watch."), "--schema": ("ohlcv", "ohlcv"), "--cells": ("512", 512),
    "--overflow": ("rebuild", "rebuild"), "--window": ("100", 100), "--evictable": ("", True),
    "--wait": ("5", 5.0), "--on-full": ("raise", "raise"), "--max-pending": ("9", 9),
    "--choices": ("up,down", ["up", "down"]), "--max-tokens": ("2", 2), "--stop": ("x", "x"),
    "--temperature": ("0.5", 0.5), "--top-p": ("0.5", 0.5), "--seed": ("3", 3),
    "--at": ("v1", wb.version(1)), "--rate": ("200", 200.0), "--speed": ("60x", "60x"),
    "--no-cells": ("", False), "--compute": ("", True),
    "--every": ("2", 2), "--from": ("2", 2), "--to": ("4", 4), "--name": ("trend", "trend"),
}  # fmt: skip
BESIDE = {
    "--window": "--overflow rebuild --cells 512", "--top-p": "--temperature 1",
    "--seed": "--temperature 1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"),
    [(c, o.name) for c, entry in COMMANDS.items() for o in entry.options if o.is_keyword],
)
def test_every_option_reaches_the_method_as_the_keyword_it_sets(
    ip, engine, calls, command, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (key,) = (o.key for o in COMMANDS[command].options if o.name == name)
    text, value = VALUES[name]
    rest = {"open": "new", "fork": "btc new", "save": "btc file", "restore": "file",
            "stream": "btc bars"}.get(command, "btc Up?")
    if command == "backtest" and name != "--every":
        rest += " --every 2"
    s = engine.open("btc", schema="ohlcv")
    s.push(BARS).wait()
    if command == "restore":
        s.save("file")
        s.close()
    ip["bars"] = BARS
    calls.clear()
    ip.run(f"%stateful {command} {rest} {BESIDE.get(name, '')} {name} {text}")
    (call,) = [given for called, given in calls if called == METHODS[command][1]]
    assert call[key] == value
    if command == "stream":
        with contextlib.suppress(OptionsError):  # a few rows may have ended by themselves
            ip.run("%stateful stream --end")


@pytest.mark.parametrize(
    ("first", "method", "key", "value"),
    [
        *[
            (f"{BESIDE.get(o.name, '')} {o.name} {VALUES[o.name][0]}", "ask_start", o.key,
             VALUES[o.name][1])
            for o in COMMANDS["ask"].options
            if o.is_keyword
        ],
        ("--flash --choices up,down", "flash", "choices", ["up", "down"]),
        ("--backtest 3", "backtest_start", "every", 3),
        ("--backtest 3 --from 2", "backtest_start", "start", 2),
        ("--backtest 3 --to 4", "backtest_start", "end", 4),
        ("--stream bars", "stream", "source", BARS),
        ("--stream bars --rate 200", "stream", "rate", 200.0),
        ("--stream bars --speed 60x", "stream", "speed", "60x"),
        ("--stream bars --every 2", "stream", "every", 2),
        ("--push", "push", "data", ["Is it up?"]),
    ],
)  # fmt: skip
def test_the_same_of_a_cells_options(opened, engine, calls, first, method, key, value):
    engine.session("btc").push(BARS).wait()
    opened["bars"] = BARS
    calls.clear()
    opened.run(f"%%stateful btc {first}\nIs it up?")
    assert dict(calls)[method][key] == value


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
    with pytest.raises(OptionsError, match="no stream of a magic runs into 'eth'"):
        opened.run("%stateful open eth --cells 64\n%stateful stream --end")
    opened.run("%stateful stream btc --end")
    feed.join(60)
    with pytest.raises(OptionsError, match="no stream of a magic runs into 'btc'"):
        opened.run("%stateful stream btc --end")


def test_a_cell_streams_and_registers(opened, engine):
    opened["bars"] = BARS
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
    with pytest.raises(RowError):
        feed.wait(60)
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("workbench:")]
    assert len(said) == 1
    assert "the stream into 'btc' ended early: after 1 row of the stream: row 0" in said[0]


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


def test_a_backtest_and_a_question_as_of_an_earlier_moment(opened):
    opened.run("for i in range(6):\n    %stateful push btc {'a': float(i)}")
    test = opened.run("%stateful backtest btc Up? --choices up,down --every 2 -o t")
    assert test is opened["t"] and test.frame["row"].to_list() == [2, 4, 6]
    cell = opened.run("%%stateful btc --backtest 2 --to 4 --choices up,down\nUp?")
    assert cell.frame["row"].to_list() == [2, 4]
    then = opened.run("%%stateful btc --at 2 --choices up,down\nUp?")
    assert then.row == 2 and then.probabilities == pytest.approx(test.answers[0].probabilities)
    assert opened.run("%stateful ask btc Up? --max-tokens 1 --at v5").version == 5
    assert opened.run("%stateful ask btc Up? --max-tokens 1 --at -1").row == 5


def test_a_fork_is_the_session_used_last_and_shares_its_rows(opened, engine):
    opened.run("%stateful push btc ['one', 'two', 'three']")
    fork = opened.run("%stateful fork what-if --at 2 --cells 300")
    assert fork is engine.session("what-if") and (fork.rows, fork.budget) == (2, 300)
    opened.run("%stateful push what-if 'four'")
    again = opened.run("%stateful fork again")  # of the one used last
    assert again.rows == 3 and engine.session("btc").rows == 3
    for line, said in (
        ("fork", "expected [NAME] NEW, got 'nothing'"),
        ("fork a b c", "expected [NAME] NEW, got 'a b c'"),
        ("fork btc again", "session 'again' is open"),
        ("fork nobody new", "no session 'nobody' is open"),
        ("fork btc new --at 9", "goes from row 0 to 3"),
        ("fork btc new --cells 1500 --wait 0.01", "got no cells in 0.01 s"),
    ):
        with pytest.raises(wb.WorkbenchError, match=re.escape(said)):
            opened.run(f"%stateful {line}")


def test_a_session_comes_back_from_its_file_into_a_new_engine(
    opened, engine, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    opened.run("%stateful push btc ['one', 'two']")
    assert opened.run("%stateful save 'my file' --no-cells") == Path("my file")
    assert (tmp_path / "my file").exists()
    opened.run("%stateful save btc with")
    for line, said in (
        ("save", "expected [NAME] FILE, got 'nothing'"),
        ("restore", "expected a FILE"),
        ("restore none", "none"),
        ("restore with", "session 'btc' is open"),
    ):
        with pytest.raises((wb.WorkbenchError, OSError), match=re.escape(said)):
            opened.run(f"%stateful {line}")
    opened.run("%stateful close --all")
    back = opened.run("%stateful restore with")
    assert (back.name, back.rows) == ("btc", 2) and engine.session("btc") is back
    opened.run("%stateful push btc 'three'")
    assert back.rows == 3


def test_a_seed_draws_the_same_answer_again(opened):
    opened.run("%stateful push btc {'a': 1.0}")
    cell = "%%stateful btc --temperature 3 --seed 5 --max-tokens 8\nUp?"
    first, again = opened.run(cell), opened.run(cell)
    assert first.token_ids == again.token_ids
    assert first.token_ids != opened.run(cell.replace("--seed 5", "--seed 6")).token_ids


def test_rows_go_in_and_an_answer_comes_out(opened, engine):
    tick = opened.run("row = {'a': 1.5}\n%stateful push btc row")
    assert (tick.rows, tick.version) == (1, 1)
    answer = opened.run("x = %stateful ask btc What is a? --max-tokens 3\nx")
    assert answer is opened["x"] and answer.done
    assert answer.text == engine.session("btc").ask("What is a?", max_tokens=3).text


def test_a_cell_asks_and_assigns(opened):
    answer = opened.run("%%stateful btc --choices up,down -o y\nIs it up?")
    assert opened["y"] is answer
    assert set(answer.probabilities) == {"up", "down"}


def test_names_in_braces_are_the_variables_values(opened):
    opened.run("k = 5\n%stateful push btc 'one'")
    asked = opened.run("%%stateful btc --max-tokens 1\nUp over {k} bars, {unknown}?")
    assert asked.question == "Up over 5 bars, {unknown}?"
    asked = opened.run("x = %stateful ask btc Over {k}? --max-tokens 1\nx")
    assert asked.question == "Over 5?"


def test_a_cells_lines_are_pushed_as_one_tick_of_text(opened, engine):
    tick = opened.run("%%stateful btc --push\nfirst {k}\n\nsecond")
    assert (tick.rows, engine.session("btc").version) == (2, 1)
    assert "first {k}\nsecond\n" in engine.tokenizer.decode(engine.session("btc").token_ids)


def test_a_cells_lines_become_flash_queries(opened, engine):
    queries = opened.run("%%stateful --flash --choices up,down\nUp now?\nUp over 5?")
    assert queries == engine.session("btc").flash_queries
    assert [(q.question, q.choices) for q in queries] == [
        ("Up now?", ("up", "down")), ("Up over 5?", ("up", "down")),
    ]  # fmt: skip


def test_a_line_registers_a_flash_query(opened, engine):
    opened.run("%stateful flash Is it up? --choices up,down --name trend")
    (query,) = engine.session("btc").flash_queries
    assert (query.name, query.question) == ("trend", "Is it up?")


def test_list_and_status_are_values(opened, engine):
    frame = opened.run("sessions = %stateful list\nsessions")
    assert frame.select("session", "version", "rows", "budget", "state").rows() == [
        ("btc", 0, 0, engine.session("btc").budget, "open")
    ]
    assert opened.run("%stateful status") == engine.stats()


def test_the_session_used_last_is_meant(opened, engine):
    opened.run("%stateful open eth --cells 64")
    assert opened.run("%stateful use btc").name == "btc"
    assert opened.run("%stateful ask Up? --max-tokens 1").session_name == "btc"
    opened.run("%stateful close")
    assert list(engine.sessions) == ["eth"]
    assert opened.run("%stateful ask Up? --max-tokens 1").session_name == "eth"  # the only one


def test_close_all_leaves_the_engine_open(opened, engine):
    opened.run("%stateful open eth --cells 64\n%stateful close --all")
    assert engine.sessions == {} and not engine.closed


def test_inside_a_def_the_caller_asks_for_the_result(opened):
    code = "def f():\n    turn = %stateful ask btc Up? --max-tokens 1\n    return turn"
    turn = opened.run(code + "\nf()")
    assert isinstance(turn, Turn)
    assert turn.result(60).done


def test_the_cell_that_loads_the_extension_may_use_it(ip, engine, capsys):
    ip.run("%unload_ext workbench")
    code = "%load_ext workbench\ns = %stateful open btc\ns.push({'a': 1.0}).wait()\ns"
    ip.run(code)
    assert engine.session("btc").version == 1
    assert "Session('btc', version 1, 1 rows" in capsys.readouterr().out


def test_it_works_in_a_loop_at_the_top_level(opened):
    opened.run("for i in range(2):\n    a = %stateful ask btc Up {i}? --max-tokens 1")
    assert opened["a"].question == "Up 1?" and opened["a"].done


@pytest.mark.parametrize(
    ("cell", "error", "words"),
    [
        ("%stateful ask nothing", QuestionError, None),
        ("%%stateful eth\nUp?", SessionNotFound, r"no session 'eth' is open \(open: 'btc'\)"),
        ("%stateful use eth", SessionNotFound, "no session 'eth'"),
        ("%stateful open btc", SessionExists, "session 'btc' is open"),
        ("%stateful open big --cells 99999", CellsExhausted, "99,999"),
        ("%stateful open a --frob 1", OptionsError, "unknown option --frob"),
        ("%%stateful btc\n   ", OptionsError, "the cell is empty"),
        ("%stateful ask btc " + "long " * 400, CellsExhausted, "shorten it"),
        ("%stateful push btc {'b': 1.0}", RowError, "expected columns a"),
        ("%stateful push btc {'a': float('nan')}", RowError, "expected a finite number"),
        ("%stateful push btc b'caf\\xe9'", RowError, "expected UTF-8"),
        ("%stateful push btc '\\ud800'", RowError, "not valid Unicode"),
        ("%stateful push btc nowhere", OptionsError, "'nowhere' raised NameError"),
        ("%stateful push btc 1 +", OptionsError, "SyntaxError"),
        ("%stateful push btc 5", RowError, "got int"),
        ("%stateful push btc ({'a': 1 / x} for x in [0])", OptionsError, "ZeroDivisionError"),
        ("%stateful push btc lazy", OptionsError, "raised ColumnNotFoundError"),
        ("%stateful stream btc 5", OptionsError, "expected a frame or rows one by one, got int"),
        ("%stateful stream btc {'a': 1.0}", OptionsError, "got dict; a single row goes in with"),
        ("%stateful stream btc 1/0", OptionsError, "'1/0' raised ZeroDivisionError"),
        ("%stateful stream eth [1]", SessionNotFound, "no session 'eth'"),
        ("%%stateful btc --stream f(1\nUp?", OptionsError, "raised SyntaxError"),
        ("%stateful ask btc Up? --at 99", QuestionError, "at=row 99: session 'btc' goes from row"),
        ("%stateful backtest btc Up? --every 50", QuestionError, "every 50 rows"),
        ("%stateful backtest btc Up? --from 9 --to 3", QuestionError, "9"),
        ("%stateful flash --pause trend", QuestionError, "there is none .registered: none"),
        ("%stateful close eth", SessionNotFound, "no session 'eth'"),
        ("%stateful nonsense", OptionsError, "unknown command"),
    ],
)
def test_bad_input_is_one_line_and_leaves_everything_alive(
    opened, engine, capsys, cell, error, words
):
    opened.run("%stateful push btc {'a': 1.0}")
    opened["lazy"] = pl.LazyFrame({"a": [1.0]}).select("b")
    if words is None:
        opened.run(cell + "?")  # a word that looks like help's
        return
    capsys.readouterr()
    with pytest.raises(error, match=words):
        opened.run(cell)
    shown = capsys.readouterr().out.strip()
    assert shown.startswith(f"{error.__name__}: ") and "\n" not in shown
    assert not engine.closed
    assert opened.run("%stateful ask btc Up? --max-tokens 1").done


def test_a_closed_session_is_not_found(opened, engine):
    engine.session("btc").close()
    with pytest.raises(SessionNotFound, match="no session 'btc' is open"):
        opened.run("%stateful ask Is it up?")
    eth = opened.run("%stateful open eth --cells 200")
    for line in ("ask btc Is it up?", "flash btc Up?", "backtest btc Up?"):
        with pytest.raises(OptionsError, match="session 'btc' is closed; open it again"):
            opened.run(f"%stateful {line}")  # eth is not asked in its place
    asked = opened.run("%stateful ask eth btc went up? --max-tokens 1")
    assert asked.question == "btc went up?" and eth.flash_queries == []


def test_with_no_engine_the_help_is_to_open_one(ip):
    with pytest.raises(SessionNotFound, match="open one with %stateful open NAME"):
        ip.run("%stateful ask Is it up?")
    assert ip.run("%stateful list").height == 0


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("%stateful ask btc Up?\n", "%stateful ask btc Up? --\n"),
        ("  x = %stateful flash Up?  ", "  x = %stateful flash Up? --  "),
        ("%stateful backtest btc Up?", "%stateful backtest btc Up? --"),
        ("a['btc'] = %stateful ask btc Up?", "a['btc'] = %stateful ask btc Up? --"),
        ("x: Answer = %stateful ask Up?", "x: Answer = %stateful ask Up? --"),
        ("first, *rest = %stateful flash Up?", "first, *rest = %stateful flash Up? --"),
        ("%time %stateful ask btc Up?", "%time %stateful ask btc Up? --"),
        ("%timeit -n1 -r 1 %stateful ask Up?", "%timeit -n1 -r 1 %stateful ask Up? --"),
        ("# x = %stateful ask Up?", "# x = %stateful ask Up?"),
        ("%stateful?", "%stateful?"),
        ("%stateful open?", "%stateful open?"),
        ("x?", "x?"),
    ],
)
def test_a_questions_mark_does_not_open_help(line, kept):
    assert keep_question_mark([line]) == [kept]


def test_other_magics_cells_keep_their_lines():
    lines = ["%%bash\n", "%stateful ask btc Up?\n"]
    assert keep_question_mark(lines) == lines


def test_loading_twice_and_unloading_leaves_nothing(ip):
    shell = ip.shell
    ip.run("%reload_ext workbench\n%load_ext workbench")
    names = [f.__name__ for f in shell.input_transformers_post]
    assert names.count("add_await") == 1
    ip.run("%unload_ext workbench")
    assert "stateful" not in shell.magics_manager.magics["line"]
    assert "add_await" not in [f.__name__ for f in shell.input_transformers_post]
    assert shell.Completer.custom_matchers == []
    ip.run("%load_ext workbench")


@pytest.fixture
def kernel(opened, monkeypatch):
    """What a kernel would show: live outputs, and values a second time."""
    outputs, shown = [], []

    class Handle:
        def update(self, data, raw):
            outputs[-1] = data["text/plain"]

    def show(data, **options):
        outputs.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr(magics, "display", show)
    monkeypatch.setattr(opened.shell, "kernel", object(), raising=False)
    monkeypatch.setattr(
        opened.shell.displayhook, "write_format_data", lambda data, md=None: shown.append(data)
    )
    return outputs, shown


def test_a_live_output_is_drawn_once_and_not_again_as_the_cells_value(opened, kernel):
    outputs, shown = kernel
    opened.run("%%stateful btc --max-tokens 4\nUp?")
    assert len(outputs) == 1 and outputs[0].endswith("tokens]")
    assert shown == []
    opened.run("%%stateful btc --max-tokens 4 --no-stream\nUp?")
    assert len(outputs) == 1 and len(shown) == 1


def test_a_backtest_is_drawn_live_and_a_stream_by_its_bar(opened, kernel):
    outputs, shown = kernel
    opened.run("%stateful push btc ['a', 'b', 'c', 'd']")
    shown.clear()
    opened.run("%stateful backtest btc Up? --choices up,down --every 2")
    assert len(outputs) == 1 and "[2 moments | rows 2 to 4]" in outputs[0]
    feed = opened.run("feed = %stateful stream btc ['e']\nfeed")
    feed.wait(60)
    assert shown == []
    opened.run("feed")
    assert len(shown) == 1 and "1 of 1 rows, done" in shown[0]["text/plain"]


def test_what_could_not_be_asked_leaves_no_picture(opened, kernel):
    outputs, shown = kernel
    with pytest.raises(QuestionError):
        opened.run("%stateful ask btc Up? --at 99")
    assert outputs in ([], [""]) and shown == []


def test_the_dashboard_is_a_line_away(opened, engine):
    box = opened.run("%stateful dashboard")
    assert repr(box).startswith(f"Dashboard({engine.model_name!r}, sessions, flash")
    box.close()


def test_open_takes_windows_and_evictable_sessions(ip, engine):
    ip.run("%stateful open w --cells 512 --overflow rebuild --window 100 --evictable")
    session = engine.session("w")
    assert (session.overflow, session.evictable, session.capacity) == ("rebuild", True, 256)
    assert session.ingest.window.keep == 100
