"""`%stateful` and `%%stateful`: a real shell, a tiny model."""

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
from workbench.testing import tiny_model


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
        ("restore none", "No such file or directory: 'none'"),
        ("restore .", "%stateful restore: "),
        ("save btc nowhere/file", "%stateful save: nowhere is no folder"),
        ("restore with", "session 'btc' is open"),
    ):
        with pytest.raises(wb.WorkbenchError, match=re.escape(said)):
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
    engine.open("gold", cells=200).close()  # no magic has seen it
    with pytest.raises(OptionsError, match="session 'gold' is closed; open it again"):
        opened.run("%stateful ask gold Is it up?")


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


def test_the_dashboard_is_a_line_away(opened, engine):
    box = opened.run("%stateful dashboard")
    assert repr(box).startswith(f"Dashboard({engine.model_name!r}, sessions, flash")
    box.close()


def test_open_takes_windows_and_evictable_sessions(ip, engine):
    ip.run("%stateful open w --cells 512 --overflow rebuild --window 100 --evictable")
    session = engine.session("w")
    assert (session.overflow, session.evictable, session.capacity) == ("rebuild", True, 256)
    assert session.ingest.window.keep == 100
