"""A line of ``%stateful`` or ``%%stateful`` as one frozen value, before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import OptionsError

# Which options each command takes; the magics, the completion and the errors all read this.
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": (),
    "open": (
        "--prompt", "--schema", "--cells", "--model", "--on-full", "--overflow", "--window",
        "--evictable",
    ),
    "list": (),
    "status": (),
    "use": (),
    "close": ("--all",),
    "ask": ("--choices", "--max-tokens", "--no-stream", "-o"),
    "push": (),
    "flash": ("--choices", "--max-tokens", "--name"),
    "dashboard": (),
}  # fmt: skip
CELL_OPTIONS = ("--choices", "--max-tokens", "--push", "--flash", "--no-stream", "-o")
FLAGS = frozenset({"--all", "--push", "--flash", "--no-stream", "--evictable"})
VALUES: dict[str, tuple[str, ...]] = {
    "--schema": ("ohlcv", "rows"),
    "--on-full": ("block", "raise", "drop_oldest"),
    "--overflow": ("error", "rebuild", "evict"),
    "--choices": ("up,down", "yes,no", "above,below"),
}

_BRACES = re.compile(r"\{([A-Za-z_]\w*)(?:!([rs]))?(?::([^{}]*))?\}")
_WORD = re.compile(r"\s*(\S+)")
_OPTION = re.compile(r"(--?[A-Za-z][\w-]*)(=)?")
_VALUE = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"']\S*)(?=\s|$)""")


@dataclass(frozen=True)
class StatefulOptions:
    """What a line asks for.

    Attributes:
        command: one of `COMMANDS`; a cell's is ``ask``, ``push`` or ``flash``.
        session: the session's name; None is the one used last.
        text: the question, or the expression to push.
        lines: a cell's lines that are not blank, for ``--push`` and ``--flash``.
        prompt, schema, cells, model: as `Engine.open` and `Engine` take them.
        on_full, overflow, window, evictable: as `Engine.open` takes them.
        choices, max_tokens: as `Session.ask` takes them.
        name: how boards call a flash query.
        stream: show an open answer while it decodes.
        out: the variable that gets the answer.
        every_session: close all of them.
    """

    command: str
    session: str | None = None
    text: str = ""
    lines: tuple[str, ...] = ()
    prompt: str | None = None
    schema: str | None = None
    cells: int | None = None
    model: str | None = None
    on_full: str = "block"
    overflow: str = "error"
    window: int | None = None
    evictable: bool = False
    choices: tuple[str, ...] | None = None
    max_tokens: int | None = None
    name: str | None = None
    stream: bool = True
    out: str | None = None
    every_session: bool = False


def expand(text: str, names: Mapping[str, Any]) -> str:
    """``{name}`` replaced by the variable's value; unknown braces stay as they are.

    A format works as in an f-string: ``{price:.2f}``, ``{row!r}``.
    """

    def value(found: re.Match[str]) -> str:
        name, conversion, form = found.groups()
        if name not in names:
            return found[0]
        shown = repr(names[name]) if conversion == "r" else names[name]
        try:
            return format(str(shown) if conversion == "s" else shown, form or "")
        except (TypeError, ValueError):
            return found[0]

    return _BRACES.sub(value, text)


def parse_line(
    line: str, sessions: Collection[str] = (), names: Mapping[str, Any] | None = None
) -> StatefulOptions:
    """The options of ``%stateful LINE``.

    Args:
        line: what stands after ``%stateful``.
        sessions: names of the open sessions: a question's first word may be one of them.
        names: variables for ``{name}`` in questions and in options' values.

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
    words, given = _split(rest, COMMANDS[command], f"%stateful {command}", names or {})
    match command:
        case "open":
            return StatefulOptions(command, _one(command, words, "a NAME"), **given)
        case "use":
            return StatefulOptions(command, _one(command, words, "a NAME"))
        case "close":
            name = words[0] if words else None
            if len(words) > 1 or (name and given):
                msg = f"%stateful close: expected one NAME or --all, got {' '.join(words)!r}"
                raise OptionsError(f"{msg}{' and --all' if given else ''}")
            return StatefulOptions(command, name, **given)
        case "ask" | "flash":
            return _question(command, words, given, sessions)
        case _:
            if words:
                msg = f"%stateful {command}: expected nothing after it, got {' '.join(words)!r}"
                raise OptionsError(msg)
            return StatefulOptions(command)


def parse_cell(line: str, cell: str, names: Mapping[str, Any] | None = None) -> StatefulOptions:
    """The options of a ``%%stateful LINE`` cell; what to ask, push or register is the cell's text.

    Rows that are pushed are data and stay as they are: ``{name}`` means nothing in them.

    Raises:
        OptionsError: it cannot be understood; the message says what was expected.
    """
    words, given = _split(line, CELL_OPTIONS, "%%stateful", names or {})
    push, flash = given.pop("push", False), given.pop("flash", False)
    if len(words) > 1:
        msg = (
            f"%%stateful: expected one session's NAME on the first line, got {' '.join(words)!r}; "
            "the question goes below it"
        )
        raise OptionsError(msg)
    useless = list(given) if push else [n for n in ("out", "stream") if flash and n in given]
    if useless:
        shown = ", ".join(map(_written, useless))
        mode = "push" if push else "flash"
        msg = f"%%stateful --{mode}: {shown} means nothing here; leave it out"
        raise OptionsError(msg)
    if push and flash:
        msg = "%%stateful: expected --push or --flash, got both; use two cells"
        raise OptionsError(msg)
    command = "push" if push else "flash" if flash else "ask"
    text = cell if push else expand(cell, names or {})
    if not text.strip():
        what = {"push": "rows", "flash": "questions", "ask": "a question"}[command]
        msg = f"%%stateful: the cell is empty; expected {what} below the first line"
        raise OptionsError(msg)
    lines = () if command == "ask" else tuple(x for x in text.splitlines() if x.strip())
    return StatefulOptions(command, words[0] if words else None, text.strip(), lines, **given)


def _push(rest: str) -> StatefulOptions:
    name, _, expression = rest.partition(" ")
    if not name or not expression.strip():
        msg = f"%stateful push: expected NAME EXPRESSION, got {rest!r}; such as: push btc row"
        raise OptionsError(msg)
    return StatefulOptions("push", name, expression.strip())


def _question(
    command: str, words: list[str], given: dict[str, Any], sessions: Collection[str]
) -> StatefulOptions:
    session = None
    if words and words[0] in sessions:
        session, words = words[0], words[1:]
    elif words and (near := difflib.get_close_matches(words[0], sessions, n=1, cutoff=0.66)):
        # A mistyped name must not end up inside the question, where nobody would notice it.
        msg = (
            f"no session {words[0]!r} is open; did you mean {near[0]!r}? If it belongs to the "
            f"question, name the session: %stateful {command} {near[0]} {words[0]} ..."
        )
        raise OptionsError(msg)
    text = " ".join(words)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if not text.strip():
        msg = f"%stateful {command}: the question is empty; expected [NAME] and its words"
        raise OptionsError(msg)
    return StatefulOptions(command, session, text, **given)


def _one(command: str, words: list[str], expected: str) -> str:
    if len(words) != 1:
        msg = f"%stateful {command}: expected {expected}, got {' '.join(words) or 'nothing'!r}"
        if len(words) > 1:
            msg += "; put quotes around values with spaces"
        raise OptionsError(msg)
    return words[0]


def _split(
    line: str, allowed: tuple[str, ...], where: str, names: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Words and options of a line; only an option's value may be quoted, so "what's" is a word."""
    words: list[str] = []
    given: dict[str, Any] = {}
    at = 0
    while found := _WORD.match(line, at):
        word, at = found[1], found.end()
        option = _OPTION.match(word)
        if word == "--":  # what follows are words, whatever they look like
            words += line[at:].split()
            break
        if option is None:
            words.append(expand(word, names))
            continue
        name = option[1]
        if name not in allowed:
            raise _unknown(name, allowed, where)
        if name in FLAGS:
            if option.end() != len(word):
                msg = f"{where} {name}: expected no value, got {word!r}"
                raise OptionsError(msg)
            given.update(_flag(name))
            continue
        start = found.start(1) + option.end() if option[2] else at
        value = _VALUE.match(line, start)
        if value is None or (not option[2] and option.end() != len(word)):
            msg = f"{where} {name}: expected a value after it; put quotes around one with spaces"
            raise OptionsError(msg)
        at = value.end()
        key, text = _KEYS[name], expand(_unquoted(value[1]), names)
        if key in given:
            msg = f"{where} {name}: expected it once, got it twice"
            raise OptionsError(msg)
        given[key] = _READ.get(name, _as_is)(f"{where} {name}", text)
    return words, given


def _unquoted(value: str) -> str:
    if value[0] not in "\"'":
        return value
    return re.sub(r"\\(.)", r"\1", value[1:-1])


def _unknown(name: str, allowed: tuple[str, ...], where: str) -> OptionsError:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    expected = ", ".join(allowed) or "no options"
    hint = f"; did you mean {near[0]}?" if near else ""
    return OptionsError(f"{where}: unknown option {name}, expected {expected}{hint}")


def _as_is(where: str, text: str) -> str:
    return text


def _number(where: str, text: str) -> int:
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        msg = f"{where}: expected a whole number of at least 1, got {text!r}"
        raise OptionsError(msg)
    return number


def _one_of(where: str, text: str) -> str:
    expected = VALUES[where.split()[-1]]
    if text not in expected:
        msg = f"{where}: expected {', '.join(expected)}, got {text!r}"
        raise OptionsError(msg)
    return text


def _list(where: str, text: str) -> tuple[str, ...]:
    choices = tuple(choice.strip() for choice in text.split(","))
    if len(set(choices)) < 2 or len(set(choices)) != len(choices) or not all(choices):
        msg = f"{where}: expected two or more different answers, such as up,down, got {text!r}"
        raise OptionsError(msg)
    return choices


def _variable(where: str, text: str) -> str:
    if not text.isidentifier():
        msg = f"{where}: expected a variable's name, got {text!r}"
        raise OptionsError(msg)
    return text


def _flag(name: str) -> dict[str, bool]:
    match name:
        case "--no-stream":
            return {"stream": False}
        case "--all":
            return {"every_session": True}
        case _:
            return {name.removeprefix("--"): True}


def _written(key: str) -> str:
    return next((n for n, k in _KEYS.items() if k == key), "--no-stream")


_KEYS = {
    "--prompt": "prompt",
    "--schema": "schema",
    "--cells": "cells",
    "--model": "model",
    "--on-full": "on_full",
    "--overflow": "overflow",
    "--window": "window",
    "--choices": "choices",
    "--max-tokens": "max_tokens",
    "--name": "name",
    "-o": "out",
}
_READ: dict[str, Callable[[str, str], Any]] = {
    "--schema": _one_of,
    "--on-full": _one_of,
    "--overflow": _one_of,
    "--window": _number,
    "--cells": _number,
    "--max-tokens": _number,
    "--choices": _list,
    "-o": _variable,
}
