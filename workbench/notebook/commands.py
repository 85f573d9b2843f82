"""The commands of ``%stateful``: their options, how each value is read, and what the help says."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.errors import OptionsError, QuestionError
from workbench.moment import Moment
from workbench.streams.render import SCHEMA_NAMES

Read = Callable[[str, str], Any]


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: how it is written.
        key: the field of `StatefulOptions` it sets.
        value: what stands after it, as the help calls it; "" where nothing does.
        says: what it is for.
        read: from where it stood (for an error) and its text to its value.
        values: what completion offers.
        is_keyword: whether the Python method takes it, as the keyword ``key``.
        is_code: whether it is an expression, in which ``{name}`` is Python's.
        sets: what one without a value sets.
    """

    name: str
    key: str
    value: str
    says: str
    read: Read = lambda where, text: text
    values: tuple[str, ...] = ()
    is_keyword: bool = True
    is_code: bool = False
    sets: bool = True


@dataclass(frozen=True)
class Command:
    """One command: what it takes, and its help.

    Attributes:
        takes: what stands after it, besides options.
        says: what it does, one sentence.
        options: what it understands.
        example, python: a line of the magic, and the same in Python; tests compare them.
        more: anything else worth knowing.
        names_session: whether a session's name may be its first word.
    """

    takes: str
    says: str
    options: tuple[Option, ...] = ()
    example: str = ""
    python: str = ""
    more: str = ""
    names_session: bool = False


def whole(least: int | None) -> Read:
    """Reads a whole number, of at least so much."""

    def read(where: str, text: str) -> int:
        try:
            number = int(text.replace(",", "").replace("_", ""))
        except ValueError:
            number = None
        if number is None or (least is not None and number < least):
            of = "" if least is None else f" of at least {least}"
            msg = f"{where}: expected a whole number{of}, got {text!r}"
            raise OptionsError(msg)
        return number

    return read


def real(what: str, fits: Callable[[float], bool]) -> Read:
    """Reads a number that fits."""

    def read(where: str, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not fits(number):
            msg = f"{where}: expected {what}, got {text!r}"
            raise OptionsError(msg)
        return number

    return read


def one_of(*values: str) -> Read:
    """Reads one of these words."""

    def read(where: str, text: str) -> str:
        if text not in values:
            msg = f"{where}: expected {', '.join(values)}, got {text!r}"
            raise OptionsError(msg)
        return text

    return read


# How variables that are no list of texts read: sets, other lists, views of a dict, a column.
_OTHER = re.compile(r"[\[({]|dict_\w+\(|.*\n")


def _listed(text: str) -> tuple[str, ...]:
    """Texts of a list, as ``--choices {labels}`` writes one; none if it is no list of texts."""
    try:
        found = ast.literal_eval(text) if text[:1] in ("[", "(") else ()
    except (SyntaxError, ValueError):
        return ()
    return tuple(found) if all(isinstance(choice, str) for choice in found) else ()


def _choices(where: str, text: str) -> tuple[str, ...]:
    listed = _listed(text)
    if not listed and _OTHER.match(text):
        msg = (
            f"{where}: expected answers such as up,down or a list of texts, got {text!r:.60}; "
            "of a variable of another kind make one: labels = [str(label) for label in ...]"
        )
        raise OptionsError(msg)
    choices = listed or tuple(choice.strip() for choice in text.split(","))
    if len(set(choices)) < 2 or len(set(choices)) != len(choices) or not all(choices):
        msg = f"{where}: expected two or more different answers, such as up,down, got {text!r}"
        raise OptionsError(msg)
    return choices


def _variable(where: str, text: str) -> str:
    if not text.isidentifier():
        msg = f"{where}: expected a variable's name, got {text!r}"
        raise OptionsError(msg)
    return text


def _moment(where: str, text: str) -> Moment:
    try:
        return Moment.parse(text)
    except QuestionError:
        msg = f"{where}: expected a row as 500 or -10, or a version as v12, got {text!r}"
        raise OptionsError(msg) from None


def _speed(where: str, text: str) -> str:
    found = re.fullmatch(r"(\d+\.?\d*)x", text)
    if not found or not float(found[1]) > 0:
        msg = f"{where}: expected a factor on the rows' own time, such as 60x, got {text!r}"
        raise OptionsError(msg)
    return text


def _some(where: str, text: str) -> str:
    if not text:
        msg = f"{where}: expected some text, got none"
        raise OptionsError(msg)
    return text


OVERFLOWS = ("error", "rebuild", "evict")
ON_FULL = ("block", "raise", "drop_oldest")

CHOICES = Option(
    "--choices", "choices", "up,down", "score these answers instead of writing one", _choices,
    values=("up,down", "yes,no", "above,below"),
)  # fmt: skip
MAX_TOKENS = Option(
    "--max-tokens", "max_tokens", "N", "where an open answer ends at the latest", whole(1)
)
STOP = Option("--stop", "stop", "TEXT", r'a text that ends the answer, such as "\n"', _some)
TEMPERATURE = Option(
    "--temperature", "temperature", "T", "0 is greedy, higher draws more freely",
    real("a number of at least 0", lambda t: 0 <= t < float("inf")),
)  # fmt: skip
TOP_P = Option(
    "--top-p", "top_p", "P", "draw among the likeliest tokens that reach this probability",
    real("a number above 0 and at most 1", lambda p: 0 < p <= 1),
)  # fmt: skip
SEED = Option("--seed", "seed", "N", "the same seed draws the same answer", whole(None))
AT = Option(
    "--at", "at", "500|v12|-10", "as of an earlier moment: row 500, version 12, ten rows ago",
    _moment,
)  # fmt: skip
OUT = Option("-o", "out", "NAME", "also put the result into this variable, even if interrupted",
             _variable, is_keyword=False)  # fmt: skip
MODEL = Option("--model", "model", "ID", "a Hugging Face id or folder, for a new engine",
               is_keyword=False)  # fmt: skip
WAIT = Option("--wait", "wait", "SECONDS", "wait in line for cells instead of failing",
              real("seconds above 0", lambda s: 0 < s < float("inf")))  # fmt: skip
NO_STREAM = Option("--no-stream", "live", "", "show the result only when it is complete",
                   is_keyword=False, sets=False)  # fmt: skip
RATE = Option("--rate", "rate", "N", "rows per second; without it as fast as the engine takes them",
              real("rows per second above 0", lambda r: 0 < r < float("inf")))  # fmt: skip
SPEED = Option("--speed", "speed", "60x", "instead, a factor on the rows' own time column", _speed,
               values=("1x", "10x", "60x"))  # fmt: skip
EVERY_TICK = Option("--every", "every", "N", "rows per tick", whole(1))
EVERY_MOMENT = Option("--every", "every", "N", "rows from one moment to the next", whole(1))
FROM = Option("--from", "start", "N", "the first row to ask as of", whole(1))
TO = Option("--to", "end", "N", "the last row to ask as of", whole(1))
ANSWER = (CHOICES, MAX_TOKENS, STOP)
DRAWN = (TEMPERATURE, TOP_P, SEED)

COMMANDS: dict[str, Command] = {
    "open": Command(
        "NAME", "Open a session, and an engine if none is open.",
        (
            Option("--prompt", "prompt", "TEXT", "what the model reads before any row"),
            Option("--schema", "schema", "NAME", "how rows read; rows takes any columns",
                   one_of(*SCHEMA_NAMES), values=SCHEMA_NAMES),
            Option("--cells", "cells", "N", "its budget in tokens", whole(1)),
            MODEL,
            Option("--overflow", "overflow", "HOW", "when it is full: error, rebuild or evict",
                   one_of(*OVERFLOWS), values=OVERFLOWS),
            Option("--window", "window", "TOKENS",
                   "tokens that a rebuilt window begins with at most", whole(1)),
            Option("--evictable", "evictable", "", "others may have its cells while it is idle"),
            WAIT,
            Option("--on-full", "on_full", "HOW",
                   "when its queue is full: block, raise or drop_oldest",
                   one_of(*ON_FULL), values=ON_FULL),
            Option("--max-pending", "max_pending", "N", "rows that may wait in its queue",
                   whole(1)),
        ),
        example='%stateful open btc --prompt "You watch the tape." --schema ohlcv --cells 512',
        python='engine = wb.current_engine() or wb.Engine()\n'
               's = engine.open("btc", prompt="You watch the tape.", schema="ohlcv", cells=512)',
    ),
    "fork": Command(
        "[NAME] NEW", "Open a session that goes on from another, as it is or as it was.",
        (
            AT,
            Option("--cells", "cells", "N", "its budget in tokens; the other's without it",
                   whole(1)),
            WAIT,
        ),
        example="%stateful fork btc what-if --at -1",
        python='f = s.fork("what-if", at=wb.row(-1))',
        more="It shares the rows until then: nothing is computed again. From then on neither sees\n"
             "what the other is pushed. In Python, wb.diff(s, f, question) asks both.",
        names_session=True,
    ),
    "save": Command(
        "[NAME] FILE", "Write a session into a file, with its cells.",
        (Option("--no-cells", "cells", "", "a small file; restoring computes everything again",
                sets=False),),
        example="%stateful save btc btc.session",
        python='s.save("btc.session")',
        more="Flash queries are not in it.",
        names_session=True,
    ),
    "restore": Command(
        "FILE", "Open the session of a file, and an engine if none is open.",
        (
            Option("--name", "name", "NAME", "instead of its own name", _some),
            Option("--cells", "cells", "N", "instead of its own budget in tokens", whole(1)),
            MODEL,
            WAIT,
            Option("--compute", "compute", "", "compute its cells again, whatever the file has"),
        ),
        example="%stateful restore btc.session --name again",
        python='s = engine.restore("btc.session", name="again")',
    ),
    "list": Command(
        "", "The open sessions as a frame: their sizes, what waits, and their state.",
        example="%stateful list", python="engine.sessions",
    ),
    "status": Command(
        "", "What the engine holds and has done.",
        example="%stateful status", python="engine.stats()",
    ),
    "close": Command(
        "[NAME | --all]", "Close a session: its cells are free again. The engine stays.",
        (Option("--all", "every_session", "", "close every session", is_keyword=False),),
        example="%stateful close btc", python='engine.session("btc").close()', names_session=True,
    ),
    "use": Command(
        "NAME", "The open session of this name; lines without a name mean it from now on.",
        example="%stateful use btc", python='s = engine.session("btc")', names_session=True,
    ),
    "ask": Command(
        "[NAME] WORDS", "Ask a question about all rows so far, or as of an earlier moment.",
        (*ANSWER, *DRAWN, AT, NO_STREAM, OUT),
        example="%stateful ask btc Is the trend up or down? --choices up,down --at -1",
        python='s.ask("Is the trend up or down?", choices=["up", "down"], at=wb.row(-1))',
        more="It leaves no trace in the session. Stopping the cell keeps the text so far.",
        names_session=True,
    ),
    "push": Command(
        "NAME EXPRESSION", "Push rows and wait until questions see them, as one version.",
        example='%stateful push btc {"o": 1.0, "h": 1.2, "l": 0.9, "c": 1.1}',
        python='s.push({"o": 1.0, "h": 1.2, "l": 0.9, "c": 1.1}).wait()',
        more="The expression is a dict, a text, a list of either, or a frame.",
        names_session=True,
    ),
    "stream": Command(
        "NAME EXPRESSION", "Push a whole source in the background.",
        (RATE, SPEED, EVERY_TICK,
         Option("--end", "ends", "", "instead: end all streams into NAME, Python's too",
                is_keyword=False)),
        example="%stateful stream btc bars --rate 100 --every 2",
        python="feed = s.stream(bars, rate=100, every=2)",
        more="It goes on in the background: the cell ends at once, and stopping cells does not\n"
             "stop it. feed.stop() ends it, and so does %stateful stream NAME --end.",
        names_session=True,
    ),
    "flash": Command(
        "[NAME] WORDS", "Register a standing question, answered anew after every tick.",
        (*ANSWER,
         Option("--name", "name", "SHORT", "how boards and the next three options call it"),
         Option("--pause", "pause", "NAME", "instead: leave this one alone", is_keyword=False),
         Option("--resume", "resume", "NAME", "instead: answer it again", is_keyword=False),
         Option("--remove", "remove", "NAME", "instead: forget it", is_keyword=False)),
        example="%stateful flash btc Is the trend up or down? --choices up,down --name trend",
        python='query = s.flash("Is the trend up or down?", choices=["up", "down"], name="trend")',
        more="One of the same name in that session is replaced, so a cell may run again.\n"
             "%stateful flash --pause trend is query.pause(); likewise resume() and remove().",
        names_session=True,
    ),
    "flashes": Command(
        "[NAME]", "The flash queries as a frame: their latest answers, and how fresh those are.",
        example="%stateful flashes btc", python="s.flash_queries", names_session=True,
    ),
    "backtest": Command(
        "[NAME] WORDS", "Ask one question as of many earlier rows: what would have been answered?",
        (*ANSWER, EVERY_MOMENT, FROM, TO, NO_STREAM, OUT),
        example="%stateful backtest btc Up or down? --choices up,down --every 2 --from 2",
        python='test = s.backtest("Up or down?", choices=["up", "down"], every=2, start=2)',
        more="Each answer sees no row later than its own. test.frame has a row for each.\n"
             "Stopping the cell cancels it; what has been answered stays, in the variable of -o.",
        names_session=True,
    ),
    "dashboard": Command(
        "", "The live dashboard of the engine.",
        example="%stateful dashboard", python="wb.dashboard()",
    ),
    "help": Command(
        "[COMMAND]", "This, or the help of one command; `%stateful help cell` is that of cells.",
        example="%stateful help ask", python="help(s.ask)",
    ),
}  # fmt: skip

CELL = Command(
    "[NAME]", "The cell's text is a question; the answer shows while it decodes.",
    (
        *ANSWER, *DRAWN, AT,
        Option("--push", "push", "", "instead, each line of the cell is a row of text",
               is_keyword=False),
        Option("--flash", "flash", "", "instead, each line is a flash query", is_keyword=False),
        Option("--backtest", "every", "EVERY", "instead, back-test the question every EVERY rows",
               whole(1)),
        FROM, TO,
        Option("--stream", "source", "EXPR", "begin a background stream of these rows first",
               is_keyword=False, is_code=True),
        RATE, SPEED, EVERY_TICK, NO_STREAM, OUT,
    ),
    example="%%stateful btc --max-tokens 4 -o answer\nWhat was the last close?",
    python='answer = s.ask("What was the last close?", max_tokens=4)',
    more="With --flash it is s.flash(line) for each line, with --push s.push(lines), with\n"
         "--backtest s.backtest(text, every=EVERY), with --stream s.stream(EXPR) before it.\n"
         "Stopping the cell keeps what has been answered so far; a stream goes on.",
    names_session=True,
)  # fmt: skip

MODES = ("--push", "--flash", "--backtest")  # at most one of them makes a cell no question

_GREEDY = tuple(option.name for option in DRAWN)

# What means nothing beside what, and why.
CLASHES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("--push", tuple(o.name for o in CELL.options if o.name not in MODES),
     "the rows are pushed and nothing is asked"),
    ("--flash", ("--at", *_GREEDY, "--no-stream", "-o"),
     "a flash query is greedy and answers later, as of each new version"),
    ("--backtest", ("--at", *_GREEDY, "--stream"),
     "a back-test is greedy, as of the rows that have come"),
    ("--choices", ("--max-tokens", "--stop", *_GREEDY), "the answers are given and only scored"),
    ("--at", ("--stream",), "rows to come do not change an earlier moment"),
    ("--rate", ("--speed",), "both say how fast"),
    ("--end", ("--rate", "--speed", "--every"), "it begins no stream"),
)  # fmt: skip

# What means nothing without what.
NEEDS: tuple[tuple[str, str], ...] = (
    ("--seed", "--temperature"), ("--top-p", "--temperature"), ("--rate", "--stream"),
    ("--speed", "--stream"), ("--every", "--stream"), ("--from", "--backtest"),
    ("--to", "--backtest"),
)  # fmt: skip
