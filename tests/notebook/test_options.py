import datetime as dt

import polars as pl
import pytest

import workbench as wb
from workbench.errors import OptionsError
from workbench.notebook.commands import CELL, CLASHES, COMMANDS, NEEDS
from workbench.notebook.options import StatefulOptions, excluded, expand, parse_cell, parse_line


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
    assert parse_line("ask btc 'What's up?'", {"btc"}).text == "What's up?"
    assert parse_line("ask btc 'BTC' or 'ETH'", {"btc"}).text == "'BTC' or 'ETH'"


def test_a_question_without_a_name_is_for_the_session_used_last():
    assert parse_line("ask Is it up?", {"btc"}) == StatefulOptions("ask", None, "Is it up?")


def test_options_may_stand_anywhere_in_a_question():
    options = parse_line("ask btc --stop . Is it up? -o x --max-tokens 4", {"btc"})
    assert options == StatefulOptions("ask", "btc", "Is it up?", stop=".", max_tokens=4, out="x")


def test_two_dashes_end_the_options():
    assert parse_line("ask btc -- what is --choices", {"btc"}).text == "what is --choices"
    assert parse_line("ask btc Up? --", {"btc"}).text == "Up?"
    assert parse_line("ask btc -- Above {x}?", {"btc"}, {"x": 7}).text == "Above 7?"


def test_a_mistyped_session_does_not_become_part_of_the_question():
    with pytest.raises(OptionsError, match=r"no session 'bts' is open; did you mean 'btc'\?"):
        parse_line("ask bts Is it up?", {"btc"})


def test_push_takes_the_rest_of_the_line_as_it_stands():
    assert parse_line('push btc {"o": 1} if x --y else  z') == StatefulOptions(
        "push", "btc", '{"o": 1} if x --y else  z'
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("btc bars", StatefulOptions("stream", "btc", "bars")),
        (
            "btc market(60, seed=7) --rate 2.5 --every=3",
            StatefulOptions("stream", "btc", "market(60, seed=7)", rate=2.5, every=3),
        ),
        ("btc bars --speed 60x", StatefulOptions("stream", "btc", "bars", speed="60x")),
        ("btc x --y", StatefulOptions("stream", "btc", "x --y")),
        ("btc f(x --rate)", StatefulOptions("stream", "btc", "f(x --rate)")),
        ('btc ["a --rate 5"]', StatefulOptions("stream", "btc", '["a --rate 5"]')),
        ("btc [{n}] --rate {n}", StatefulOptions("stream", "btc", "[{n}]", rate=4.0)),
        ("btc --end", StatefulOptions("stream", "btc", ends=True)),
        ("--end", StatefulOptions("stream", ends=True)),
    ],
)
def test_stream_takes_an_expression_and_options_behind_it(line, expected):
    assert parse_line("stream " + line, names={"n": 4}) == expected


def test_a_question_as_of_an_earlier_moment():
    for text, moment in (("500", wb.row(500)), ("-10", wb.row(-10)), ("v12", wb.version(12))):
        assert parse_line(f"ask btc Up? --at {text}", {"btc"}).at == moment


def test_a_backtest_has_rows_and_moments_between_them():
    line = "backtest btc Up? --choices up,down --every 5 --from 10 --to 1_000 -o t"
    expected = StatefulOptions(
        "backtest", "btc", "Up?", choices=("up", "down"), every=5, start=10, end=1000, out="t"
    )
    assert parse_line(line, {"btc"}) == expected
    cell = parse_cell("btc --choices up,down --backtest 5 --from 10 --to 1_000 -o t", "Up?")
    assert cell == expected


def test_flash_queries_are_paused_by_name():
    assert parse_line('flash --pause "Is it up?"') == StatefulOptions("flash", pause="Is it up?")
    assert parse_line("flash btc --resume trend") == StatefulOptions("flash", "btc", resume="trend")


def test_help_is_for_a_command_or_for_cells():
    assert parse_line("help open").text == "open"
    assert parse_line("help %%stateful").text == parse_line("help cell").text == "cell"


def test_a_text_that_ends_an_answer_may_be_a_newline():
    assert parse_line(r'ask btc Up? --stop "\n"', {"btc"}).stop == "\n"


@pytest.mark.parametrize(
    "first", ["btc --stream market(60, seed=7)", 'btc --stream "market(60, seed=7)"',
              "--stream market(60, seed=7) btc", "btc --stream=market(60, seed=7)"]
)  # fmt: skip
def test_a_cell_streams_an_expression(first):
    assert parse_cell(first + " --rate 4", "Up {x}?", {"seed": 9, "x": 1}) == StatefulOptions(
        "ask", "btc", "Up 1?", source="market(60, seed=7)", rate=4.0
    )


def test_keywords_are_what_was_given_and_nothing_else():
    assert parse_line("ask Up?").keywords() == {}
    options = parse_cell("--stream bars --every 2 --temperature 0 --seed 1", "Up?")
    assert options.keywords() == {"temperature": 0.0, "seed": 1}
    assert options.keywords("stream") == {"every": 2}


def test_every_option_sets_a_field():
    fields = StatefulOptions.__dataclass_fields__
    for command in (*COMMANDS.values(), CELL):
        for option in command.options:
            assert option.key in fields or option.name in ("--push", "--flash")


def test_what_is_excluded_is_refused_and_the_other_way_round():
    names = {option.name for option in CELL.options}
    assert {*(n for n, _, _ in CLASHES), *(n for n, _ in NEEDS)} <= names | {"--end"}
    assert excluded(["--push"]) >= names - {"--push"}
    assert "--choices" in excluded(["--max-tokens"]) and "--max-tokens" in excluded(["--choices"])
    assert excluded(["--choices"]).isdisjoint({"--at", "--flash", "--backtest", "-o"})


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
    assert parse_cell("btc --push", "a\u2028b\x0cc\nd").lines == ("a\u2028b\x0cc", "d")


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


def test_a_format_with_spaces_is_expanded_in_a_line_too():
    names = {"price": 1.5, "day": dt.datetime(2026, 1, 5, 9, 30)}
    line = "ask a Was it {price: .2f} at {day:%Y-%m-%d %H:%M}?"
    assert parse_line(line, {"a"}, names).text == "Was it  1.50 at 2026-01-05 09:30?"


def test_options_are_expanded_too():
    assert parse_line("open a --cells {n}", names={"n": 64}).cells == 64


@pytest.mark.parametrize("labels", [["up", "down, or so"], ("up", "down, or so")])
def test_choices_may_be_a_list(labels):
    asked = parse_line("ask a Up? --choices {labels}", {"a"}, {"labels": labels})
    assert asked.choices == ("up", "down, or so")
    with pytest.raises(OptionsError, match="two or more different answers"):
        parse_line("ask a Up? --choices {labels}", {"a"}, {"labels": labels[:1]})


OTHERS = [{"up", "down"}, [1, 2, 3], {"up": 1}.keys(), [True, False], pl.Series(["up", "down"])]


@pytest.mark.parametrize("labels", [*OTHERS, "[a,b]"])
def test_choices_of_another_kind_are_refused_and_nothing_is_asked(labels):
    with pytest.raises(OptionsError, match=r"--choices: expected answers such as .* list of texts"):
        parse_line("ask a Up? --choices {labels}", {"a"}, {"labels": labels})


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
        ("open a --schema bars", "--schema: expected ohlcv, iot, .*, spatial, rows, got 'bars'"),
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
        ("open a --wait never", "--wait: expected seconds above 0, got 'never'"),
        ("open a --overflow grow", "--overflow: expected error, rebuild, evict, got 'grow'"),
        ("ask btc up? --at then", "--at: expected a row as 500 or -10, or a version as v12"),
        ("ask btc up? --temperature hot", "--temperature: expected a number of at least 0"),
        ("ask btc up? --temperature nan", "expected a number of at least 0, got 'nan'"),
        ("ask btc up? --temperature 1 --top-p 0", "--top-p: expected a number above 0"),
        ("ask btc up? --temperature 1 --seed x", "--seed: expected a whole number, got 'x'"),
        ('ask btc up? --stop ""', "--stop: expected some text, got none"),
        ("ask btc up? --seed 1", "--seed: it means nothing without --temperature"),
        ("ask btc up? --choices a,b --seed 1", "--choices: --seed means nothing here"),
        ("ask btc up? --choices a,b --max-tokens 2 --stop x", "--max-tokens, --stop means nothing"),
        ("backtest btc", "the question is empty"),
        ("backtest btc up? --every 0", "--every: expected a whole number of at least 1"),
        ("backtest btc up? --at 5", "unknown option --at"),
        ("stream", "expected NAME EXPRESSION, then options"),
        ("stream btc", "expected NAME EXPRESSION, then options"),
        ("stream btc --rate 5 bars", "expected NAME EXPRESSION, then options"),
        ("stream btc bars --rate 0", "--rate: expected rows per second above 0, got '0'"),
        ("stream btc bars --speed 60", "--speed: expected a factor .* such as 60x, got '60'"),
        ("stream btc bars --rate 1 --speed 60x", "--rate: --speed means nothing here: both say"),
        ("stream btc bars --rat 5", "unknown option --rat, .*did you mean --rate"),
        ("stream btc bars --end", "--end: expected .NAME. alone, got 'bars'"),
        ("stream btc --end --rate 1", "--end: --rate means nothing here"),
        ("flash --pause a --resume b", "--pause: --resume means nothing here"),
        ("flash btc Up? --pause a", "--pause: expected at most a session's NAME beside it"),
        ("flashes btc eth", "flashes: expected one NAME or nothing, got 'btc eth'"),
        ("help opne", "%stateful help opne: expected .*did you mean 'open'"),
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
        ("--push --backtest 5", "x", "expected --push or --backtest, got both"),
        ("--push --stream bars", "x", "--push: --stream means nothing here: the rows are pushed"),
        ("--flash --at 5", "x", "--flash: --at means nothing here: a flash query is greedy"),
        ("--flash --temperature 1", "x", "--flash: --temperature means nothing here"),
        ("--backtest 5 --at 5", "x", "--backtest: --at means nothing here"),
        ("--backtest 5 --stream bars", "x", "--backtest: --stream means nothing here"),
        ("--backtest 5 --every 2", "x", "--every: it means nothing without --stream"),
        ("--backtest", "x", "--backtest: expected a value after it"),
        ("--backtest often", "x", "--backtest: expected a whole number of at least 1"),
        ("--from 5", "x", "--from: it means nothing without --backtest"),
        ("--rate 5", "x", "--rate: it means nothing without --stream"),
        ("--at 5 --stream bars", "x", "--at: --stream means nothing here: rows to come"),
        ("--stream bars --rate 1 --speed 2x", "x", "--rate: --speed means nothing here"),
        ("--choices a,b --temperature 1", "x", "--choices: --temperature means nothing here"),
    ],
)
def test_a_bad_cell_is_refused_in_one_line(line, cell, words):
    with pytest.raises(OptionsError, match=words):
        parse_cell(line, cell)
