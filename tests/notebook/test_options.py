import pytest

from workbench.errors import OptionsError
from workbench.notebook.options import StatefulOptions, expand, parse_cell, parse_line


def test_an_empty_line_asks_for_help():
    assert parse_line("") == parse_line("help") == StatefulOptions("help")


def test_open_reads_every_option():
    line = 'open btc --prompt "You watch the tape." --schema ohlcv --cells 8_192 --on-full=raise'
    assert parse_line(line + " --model ./m") == StatefulOptions(
        "open", "btc", prompt="You watch the tape.", schema="ohlcv", cells=8192, on_full="raise",
        model="./m",
    )  # fmt: skip


def test_quotes_inside_quotes_and_after_an_equals_sign():
    assert parse_line(r'open a --prompt="say \"hi\""').prompt == 'say "hi"'
    assert parse_line("open a --prompt 'it is'").prompt == "it is"


def test_a_question_keeps_its_apostrophes_and_may_be_quoted():
    assert parse_line("ask btc What's the last close?", {"btc"}) == StatefulOptions(
        "ask", "btc", "What's the last close?"
    )
    assert parse_line('ask btc "Is it up?"', {"btc"}).text == "Is it up?"


def test_a_question_without_a_name_is_for_the_session_used_last():
    assert parse_line("ask Is it up?", {"btc"}) == StatefulOptions("ask", None, "Is it up?")


def test_options_may_stand_anywhere_in_a_question():
    options = parse_line("ask btc --choices up,down Is it up? -o x --max-tokens 4", {"btc"})
    assert options == StatefulOptions(
        "ask", "btc", "Is it up?", choices=("up", "down"), max_tokens=4, out="x"
    )


def test_two_dashes_end_the_options():
    assert parse_line("ask btc -- what is --choices", {"btc"}).text == "what is --choices"
    assert parse_line("ask btc Up? --", {"btc"}).text == "Up?"


def test_a_mistyped_session_does_not_become_part_of_the_question():
    with pytest.raises(OptionsError, match=r"no session 'bts' is open; did you mean 'btc'\?"):
        parse_line("ask bts Is it up?", {"btc"})


def test_push_takes_the_rest_of_the_line_as_it_stands():
    assert parse_line('push btc {"o": 1} if x --y else  z') == StatefulOptions(
        "push", "btc", '{"o": 1} if x --y else  z'
    )


def test_close_takes_a_name_or_all():
    assert parse_line("close btc") == StatefulOptions("close", "btc")
    assert parse_line("close") == StatefulOptions("close")
    assert parse_line("close --all") == StatefulOptions("close", every_session=True)


def test_a_cell_is_a_question():
    assert parse_cell("btc --choices up,down", "Is it\nup?\n") == StatefulOptions(
        "ask", "btc", "Is it\nup?", choices=("up", "down")
    )


def test_a_cell_of_rows_or_flash_queries_has_lines():
    assert parse_cell("btc --push", "a {x}\n\nb\n", {"x": 1}).lines == ("a {x}", "b")
    assert parse_cell("--flash", "a {x}?\n  \nb?", {"x": 1}).lines == ("a 1?", "b?")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("{x} {y} {}", "7 {y} {}"),
        ("{price:.1f} {name!r}", "2.5 'a'"),
        ('{"x": 1} {x:zz}', '{"x": 1} {x:zz}'),
    ],
)
def test_names_in_braces_are_expanded_and_unknown_ones_stay(text, expanded):
    assert expand(text, {"x": 7, "price": 2.51, "name": "a"}) == expanded


def test_options_are_expanded_too():
    assert parse_line("open a --cells {n}", names={"n": 64}).cells == 64


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("opne btc", "unknown command 'opne': .*did you mean 'open'"),
        ("btc Is it up?", "to ask it, write: %stateful ask btc"),
        ("open", "%stateful open: expected a NAME, got 'nothing'"),
        ("open a b", "put quotes around values with spaces"),
        ("open a --cell 4", "unknown option --cell, .*did you mean --cells"),
        ("open a --cells four", "--cells: expected a whole number of at least 1, got 'four'"),
        ("open a --cells 0", "at least 1, got '0'"),
        ("open a --cells", "--cells: expected a value after it"),
        ("open a --cells 1 --cells 2", "expected it once, got it twice"),
        ("open a --schema bars", "--schema: expected ohlcv, rows, got 'bars'"),
        ("open a --on-full drop", "expected block, raise, drop_oldest, got 'drop'"),
        ('open a --prompt "no end', "put quotes around one with spaces"),
        ("list all", "expected nothing after it, got 'all'"),
        ("close a b", "expected one NAME or --all"),
        ("close a --all", "expected one NAME or --all"),
        ("close --all=yes", "expected no value"),
        ("ask", "the question is empty"),
        ("ask btc", "the question is empty"),
        ("ask btc up? --choices up", "two or more different answers"),
        ("ask btc up? --choices up,up", "two or more different answers"),
        ("ask btc up? -o 1x", "expected a variable's name, got '1x'"),
        ("push", "expected NAME EXPRESSION"),
        ("push btc", "expected NAME EXPRESSION"),
    ],
)
def test_a_bad_line_is_refused_in_one_line(line, words):
    with pytest.raises(OptionsError, match=words) as caught:
        parse_line(line, {"btc"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "cell", "words"),
    [
        ("btc", "  \n", "the cell is empty; expected a question"),
        ("btc --push", "", "expected rows below"),
        ("btc eth", "x?", "expected one session's NAME"),
        ("--push --flash", "x", "expected --push or --flash, got both"),
        ("--push --choices a,b", "x", "%%stateful --push: --choices means nothing here"),
        ("--flash -o x --no-stream", "x", "--flash: -o, --no-stream means nothing here"),
        ("--prompt hi", "x", "unknown option --prompt"),
    ],
)
def test_a_bad_cell_is_refused_in_one_line(line, cell, words):
    with pytest.raises(OptionsError, match=words):
        parse_cell(line, cell)
