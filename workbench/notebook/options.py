"""A line of ``%stateful`` or ``%%stateful`` as one frozen value, before anything runs."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import OptionsError
from workbench.moment import Moment
from workbench.notebook.commands import CELL, CLASHES, COMMANDS, MODES, NEEDS, Command, Option

_BRACES = re.compile(r"\{([A-Za-z_]\w*)(?:!([rs]))?(?::([^{}]*))?\}")
_WORD = re.compile(r"\s*((?:\{[^{}]*\}|\S)+)")  # a format in braces may have spaces
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(=)?")
_VALUE = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"']\S*)(?=\s|$)""")
_ESCAPES = {"n": "\n", "t": "\t"}
_CHANGES = ("--pause", "--resume", "--remove")
_LINES = ("--push", "--flash")  # what takes a cell line by line


@dataclass(frozen=True)
class StatefulOptions:
    """What a line asks for; None where Python's own default is meant.

    Attributes:
        command: one of `COMMANDS`; a cell's is ``ask``, ``push``, ``flash`` or ``backtest``.
        session: the session's name; None is the one used last.
        text: the question, the expression to push or stream, a fork's name, a file, or what
            help is wanted for.
        lines: a cell's lines that are not blank, for ``--push`` and ``--flash``.
        prompt, schema, cells, overflow, window, evictable, wait, on_full, max_pending: as
            `Engine.open` takes them.
        model: as `Engine` takes it.
        choices, max_tokens, stop, temperature, top_p, seed, at: as `Session.ask` takes them.
        name: how boards call a flash query.
        pause, resume, remove: the flash query to do this to.
        every, start, end: as `Session.backtest` takes them.
        rate, speed: as `Session.stream` takes them; ``every`` is its rows per tick.
        source: a cell's expression to stream.
        ends: end the background streams of the session.
        live: show the result while it comes.
        out: the variable that gets the result.
        every_session: close all of them.
        compute: as `Engine.restore` takes it.
    """

    command: str
    session: str | None = None
    text: str = ""
    lines: tuple[str, ...] = ()
    prompt: str | None = None
    schema: str | None = None
    cells: int | bool | None = None
    model: str | None = None
    overflow: str | None = None
    window: int | None = None
    evictable: bool | None = None
    wait: float | None = None
    on_full: str | None = None
    max_pending: int | None = None
    choices: tuple[str, ...] | None = None
    max_tokens: int | None = None
    stop: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    at: Moment | None = None
    name: str | None = None
    pause: str | None = None
    resume: str | None = None
    remove: str | None = None
    every: int | None = None
    start: int | None = None
    end: int | None = None
    rate: float | None = None
    speed: str | None = None
    source: str | None = None
    ends: bool = False
    live: bool = True
    out: str | None = None
    every_session: bool = False
    compute: bool | None = None

    def keywords(self, command: str | None = None) -> dict[str, Any]:
        """What the Python method behind a command (its own if None) is called with by keyword."""
        keys = [o.key for o in COMMANDS[command or self.command].options if o.is_keyword]
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


def expand(text: str, names: Mapping[str, Any]) -> str:
    """``{name}`` replaced by the variable's value; unknown braces stay as they are.

    A format works as in an f-string: ``{price:.2f}``, ``{row!r}``.
    """

    def value(found: re.Match[str]) -> str:
        name, conversion, form = found.groups()
        if name not in names:
            return found[0]
        try:
            shown = repr(names[name]) if conversion == "r" else names[name]
            return format(str(shown) if conversion == "s" else shown, form or "")
        except Exception:  # whatever the variable's own class raises
            return found[0]

    return _BRACES.sub(value, text)


def parse_line(
    line: str,
    sessions: Collection[str] = (),
    names: Mapping[str, Any] | None = None,
    closed: Collection[str] = (),
) -> StatefulOptions:
    """The options of ``%stateful LINE``.

    Args:
        line: what stands after ``%stateful``.
        sessions: names of the open sessions: a question's first word may be one of them.
        names: variables for ``{name}`` in questions and in options' values.
        closed: names of sessions that were open: none may begin a question.

    Raises:
        OptionsError: it cannot be understood; the message says what was expected.
    """
    command, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if not command:
        return StatefulOptions("help")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "%stateful help shows them"
        if command in sessions:
            hint = f"to ask it, write: %stateful ask {command} ..."
        msg = f"unknown command {command!r}: expected {', '.join(COMMANDS)}; {hint}"
        raise OptionsError(msg)
    if command == "push":
        return _push(rest)
    if command == "stream":
        return _stream(rest, names or {})
    where = f"%stateful {command}"
    words, chosen = _split(rest, COMMANDS[command], where, names or {})
    given = _by_key(COMMANDS[command], chosen)
    match command:
        case "open" | "use":
            return StatefulOptions(command, _one(where, words, "a NAME"), **given)
        case "restore":
            return StatefulOptions(command, text=_one(where, _quoted(words), "a FILE"), **given)
        case "fork" | "save":
            words = _quoted(words)
            if len(words) not in (1, 2):
                takes = COMMANDS[command].takes
                msg = f"{where}: expected {takes}, got {' '.join(words) or 'nothing'!r}"
                raise OptionsError(msg)
            return StatefulOptions(command, words[0] if words[1:] else None, words[-1], **given)
        case "close":
            name = words[0] if words else None
            if len(words) > 1 or (name and given):
                msg = f"{where}: expected one NAME or --all, got {' '.join(words)!r}"
                raise OptionsError(f"{msg}{' and --all' if given else ''}")
            return StatefulOptions(command, name, **given)
        case "flash" if changes := [name for name in _CHANGES if name in chosen]:
            return _change(where, changes[0], words, chosen)
        case "ask" | "flash" | "backtest":
            return _question(command, words, given, sessions, closed)
        case "flashes" if words:
            return StatefulOptions(command, _one(where, words, "one NAME or nothing"))
        case "help" if words:
            return StatefulOptions(command, text=_topic(_one(where, words, "one COMMAND")))
        case _:
            if words:
                msg = f"{where}: expected nothing after it, got {' '.join(words)!r}"
                raise OptionsError(msg)
            return StatefulOptions(command)


def parse_cell(line: str, cell: str, names: Mapping[str, Any] | None = None) -> StatefulOptions:
    """The options of a ``%%stateful LINE`` cell; what to ask, push or register is the cell's text.

    Rows that are pushed are data and stay as they are: ``{name}`` means nothing in them.

    Raises:
        OptionsError: it cannot be understood; the message says what was expected.
    """
    words, chosen = _split(line, CELL, "%%stateful", names or {})
    if len(words) > 1:
        msg = (
            f"%%stateful: expected one session's NAME on the first line, got {' '.join(words)!r}; "
            "the question goes below it"
        )
        raise OptionsError(msg)
    mode = next((name.removeprefix("--") for name in MODES if name in chosen), "ask")
    text = cell if mode == "push" else expand(cell, names or {})
    if not text.strip():
        what = {"push": "rows", "flash": "questions"}.get(mode, "a question")
        msg = f"%%stateful: the cell is empty; expected {what} below the first line"
        raise OptionsError(msg)
    # Not splitlines, which cuts rows of text at characters that are no line's end to a notebook.
    lines = [x for x in text.split("\n") if x.strip()] if f"--{mode}" in _LINES else []
    session = words[0] if words else None
    given = _by_key(CELL, {name: chosen[name] for name in chosen if name not in _LINES})
    return StatefulOptions(mode, session, text.strip(), tuple(lines), **given)


def excluded(names: Iterable[str]) -> set[str]:
    """Options that mean nothing beside these."""
    names = set(names)
    out = {other for mode in MODES if mode in names for other in MODES if other != mode}
    for name, others, _ in CLASHES:
        if name in names:
            out.update(others)
        if names.intersection(others):
            out.add(name)
    return out


def _push(rest: str) -> StatefulOptions:
    name, _, expression = rest.partition(" ")
    if not name or not expression.strip():
        msg = f"%stateful push: expected NAME EXPRESSION, got {rest!r}; such as: push btc row"
        raise OptionsError(msg)
    return StatefulOptions("push", name, expression.strip())


def _stream(rest: str, names: Mapping[str, Any]) -> StatefulOptions:
    """Options stand behind the expression, which may itself have dashes: ``x --y``."""
    where, command = "%stateful stream", COMMANDS["stream"]
    name, _, tail = rest.partition(" ")
    if name.startswith("-"):
        name, tail = "", rest
    expression, given = tail.strip(), {}
    for found in re.finditer(r"(?:^|(?<=\s))-[-a-z]", tail):
        try:
            words, chosen = _split(tail[found.start() :], command, where, names)
        except OptionsError:
            if _is_expression(tail):
                break
            raise
        if not words:
            expression, given = tail[: found.start()].strip(), _by_key(command, chosen)
            break
    if given.get("ends"):
        if expression:
            msg = f"{where} --end: expected [NAME] alone, got {expression!r}; it begins no stream"
            raise OptionsError(msg)
    elif not name or not expression or expression.startswith("--"):
        msg = (
            f"{where}: expected NAME EXPRESSION, then options, got {rest!r}; such as: "
            "stream btc bars --rate 10"
        )
        raise OptionsError(msg)
    return StatefulOptions("stream", name or None, expression, **given)


def _change(where: str, name: str, words: list[str], chosen: dict[str, Any]) -> StatefulOptions:
    """Pause, resume or remove a flash query."""
    others = [other for other in chosen if other != name]
    if others:
        msg = f"{where} {name}: {', '.join(others)} means nothing here; leave it out"
        raise OptionsError(msg)
    if len(words) > 1:
        msg = (
            f"{where} {name}: expected at most a session's NAME beside it, got "
            f"{' '.join(words)!r}; put quotes around a name with spaces"
        )
        raise OptionsError(msg)
    return StatefulOptions(
        "flash", words[0] if words else None, **_by_key(COMMANDS["flash"], chosen)
    )


def _question(
    command: str,
    words: list[str],
    given: dict[str, Any],
    sessions: Collection[str],
    closed: Collection[str],
) -> StatefulOptions:
    session = None
    if words and words[0] in sessions:
        session, words = words[0], words[1:]
    elif words and words[0] in closed:
        # Another session must not answer in its place.
        msg = f"session {words[0]!r} is closed; open it again with %stateful open {words[0]}"
        if sessions:
            other = next(iter(sessions))
            msg += (
                f". If the word belongs to the question, name the session: %stateful {command} "
                f"{other} {words[0]} ..."
            )
        raise OptionsError(msg)
    elif words and (near := difflib.get_close_matches(words[0], sessions, n=1, cutoff=0.66)):
        # A mistyped name must not end up inside the question, where nobody would notice it.
        msg = (
            f"no session {words[0]!r} is open; did you mean {near[0]!r}? If it belongs to the "
            f"question, name the session: %stateful {command} {near[0]} {words[0]} ..."
        )
        raise OptionsError(msg)
    text = " ".join(words)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        begins_or_ends_a_word = rf"(?<!\w){text[0]}|{text[0]}(?!\w)"
        if not re.search(begins_or_ends_a_word, text[1:-1]):  # one pair around all of it
            text = text[1:-1]
    if not text.strip():
        msg = f"%stateful {command}: the question is empty; expected [NAME] and its words"
        raise OptionsError(msg)
    return StatefulOptions(command, session, text, **given)


def _topic(word: str) -> str:
    if word in ("%%stateful", "cell"):
        return "cell"
    if word not in COMMANDS:
        near = difflib.get_close_matches(word, [*COMMANDS, "cell"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        msg = f"%stateful help {word}: expected {', '.join(COMMANDS)} or cell{hint}"
        raise OptionsError(msg)
    return word


def _quoted(words: list[str]) -> list[str]:
    """The same words where quotes keep some together: a file's name may have spaces."""
    try:
        return shlex.split(" ".join(words))
    except ValueError:  # a quote that nothing ends
        return words


def _one(where: str, words: list[str], expected: str) -> str:
    if len(words) != 1:
        msg = f"{where}: expected {expected}, got {' '.join(words) or 'nothing'!r}"
        if len(words) > 1:
            msg += "; put quotes around values with spaces"
        raise OptionsError(msg)
    return words[0]


def _split(
    line: str, command: Command, where: str, names: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Words of a line, and its options by name.

    Only an option's value may be quoted, so "what's" is a word.
    """
    known = {option.name: option for option in command.options}
    words: list[str] = []
    given: dict[str, Any] = {}
    at = 0
    while found := _WORD.match(line, at):
        word, at = found[1], found.end()
        written = _OPTION.match(word)
        if word == "--":  # what follows are words, whatever they look like
            words += [expand(each, names) for each in line[at:].split()]
            break
        if written is None:
            words.append(expand(word, names))
            continue
        name = written[1]
        if name not in known:
            raise _unknown(name, known, where)
        if name in given:
            msg = f"{where} {name}: expected it once, got it twice"
            raise OptionsError(msg)
        option = known[name]
        if not option.value:
            if written.end() != len(word):
                msg = f"{where} {name}: expected no value, got {word!r}"
                raise OptionsError(msg)
            given[name] = option.sets
            continue
        start = found.start(1) + written.end() if written[2] else at
        value = _VALUE.match(line, start)
        if value is None or (not written[2] and written.end() != len(word)):
            msg = f"{where} {name}: expected a value after it; put quotes around one with spaces"
            raise OptionsError(msg)
        text, at = _code(line, value) if option.is_code else (_unquoted(value[1]), value.end())
        given[name] = option.read(
            f"{where} {name}", text if option.is_code else expand(text, names)
        )
    _refuse_clashes(given, known, where)
    return words, given


def _by_key(command: Command, chosen: Mapping[str, Any]) -> dict[str, Any]:
    keys = {option.name: option.key for option in command.options}
    return {keys[name]: value for name, value in chosen.items()}


def _refuse_clashes(given: Collection[str], known: Collection[str], where: str) -> None:
    """Raise where two options mean nothing together."""
    modes = [name for name in given if name in MODES]
    if len(modes) > 1:
        msg = f"{where}: expected {' or '.join(modes)}, got both; use two cells"
        raise OptionsError(msg)
    for name, others, why in CLASHES:
        useless = [other for other in given if other in others]
        if name in given and useless:
            msg = f"{where} {name}: {', '.join(useless)} means nothing here: {why}; leave it out"
            raise OptionsError(msg)
    for name, needed in NEEDS:
        if name in given and needed in known and needed not in given:
            msg = f"{where} {name}: it means nothing without {needed}; add that, or leave it out"
            raise OptionsError(msg)


def _code(line: str, value: re.Match[str]) -> tuple[str, int]:
    """An expression, quoted or as it stands: ``market(60, seed=7)`` ends where it is complete."""
    if value[1][0] in "\"'":
        return _unquoted(value[1]), value.end()
    end = value.end()
    while not _is_expression(line[value.start(1) : end]):
        found = _WORD.match(line, end)
        if found is None:  # not Python: running it says what is wrong with it
            return value[1], value.end()
        end = found.end()
    return line[value.start(1) : end], end


def _is_expression(text: str) -> bool:
    try:
        compile(text.strip(), "<stateful>", "eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _unquoted(value: str) -> str:
    if value[0] not in "\"'":
        return value
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), value[1:-1])


def _unknown(name: str, known: Mapping[str, Option], where: str) -> OptionsError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    expected = ", ".join(known) or "no options"
    hint = f"; did you mean {near[0]}?" if near else ""
    return OptionsError(f"{where}: unknown option {name}, expected {expected}{hint}")
