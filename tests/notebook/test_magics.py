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
from workbench.notebook.magics import keep_question_mark
from workbench.notebook.turn import Turn
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
    assert "%stateful open NAME" in said and "%%stateful [NAME]" in said


def test_the_docstring_is_what_a_question_mark_shows(ip):
    doc = ip.shell.magics_manager.magics["line"]["stateful"].__doc__
    assert "%stateful ask btc" in doc and "--max-tokens N" in doc


def test_open_uses_the_engine_that_is_open(ip, engine):
    s = ip.run('%stateful open btc --prompt "You watch." --schema ohlcv --cells 512')
    assert s is engine.session("btc")
    assert (s.prompt, s.schema.name, s.budget) == ("You watch.", "ohlcv", 512)


def test_open_opens_an_engine_where_none_is_open(ip, tmp_path):
    assert wb.current_engine() is None
    model, tokenizer = tiny_model()
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    s = ip.run(f"%stateful open btc --model {tmp_path / 'm'}")
    try:
        assert wb.current_engine() is s.engine
        with pytest.raises(OptionsError, match=r"--model asks for 'other'; close it with"):
            ip.run("%stateful open eth --model other")
    finally:
        s.engine.close()
        magics._held.clear()


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
        ("%stateful nonsense", OptionsError, "unknown command"),
    ],
)
def test_bad_input_is_one_line_and_leaves_everything_alive(
    opened, engine, capsys, cell, error, words
):
    opened.run("%stateful push btc {'a': 1.0}")
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


def test_with_no_engine_the_help_is_to_open_one(ip):
    with pytest.raises(SessionNotFound, match="open one with %stateful open NAME"):
        ip.run("%stateful ask Is it up?")
    assert ip.run("%stateful list").height == 0


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("%stateful ask btc Up?\n", "%stateful ask btc Up? --\n"),
        ("  x = %stateful flash Up?  ", "  x = %stateful flash Up? --  "),
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


def test_a_live_output_is_drawn_once_and_not_again_as_the_cells_value(opened, monkeypatch):
    outputs = []

    class Handle:
        def update(self, data, raw):
            outputs[-1] = data["text/plain"]

    def show(data, **options):
        outputs.append(data["text/plain"])
        return Handle()

    monkeypatch.setattr(magics, "display", show)
    monkeypatch.setattr(opened.shell, "kernel", object(), raising=False)
    shown = []
    monkeypatch.setattr(
        opened.shell.displayhook, "write_format_data", lambda data, md=None: shown.append(data)
    )
    opened.run("%%stateful btc --max-tokens 4\nUp?")
    assert len(outputs) == 1 and outputs[0].endswith("tokens]")
    assert shown == []
    opened.run("%%stateful btc --max-tokens 4 --no-stream\nUp?")
    assert len(outputs) == 1 and len(shown) == 1


def test_the_dashboard_is_a_line_away(opened, engine):
    box = opened.run("%stateful dashboard")
    assert repr(box) == f"Dashboard({engine.model_name!r}, sessions, flash, latency)"
    box.close()


def test_open_takes_windows_and_evictable_sessions(ip, engine):
    ip.run("%stateful open w --cells 512 --overflow rebuild --window 100 --evictable")
    session = engine.session("w")
    assert (session.overflow, session.evictable, session.capacity) == ("rebuild", True, 256)
    assert session.ingest.window.keep == 100
