"""Completion of ``%stateful``: commands, sessions, options, values, variables, columns, models."""

from __future__ import annotations

import os
import re
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.getipython import get_ipython

from workbench.front import Engine, current_engine
from workbench.notebook.commands import CELL, COMMANDS, Option
from workbench.notebook.options import excluded
from workbench.notebook.turn import Turn
from workbench.session import Session
from workbench.streams.frames import is_frame

_MAGIC = re.compile(r"(?P<magic>%%?)stateful(?P<rest>\s.*|)$")
_FIRST_LINE = re.compile(r"%%stateful(?P<rest>\s.*|)$")
_ASKING = ("ask", "flash", "backtest")  # commands whose words are a question
_BAR = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}  # in people's words

SCAN_S = 0.1  # seconds that looking for model folders may take
SCAN_DEPTH = 3


@dataclass(frozen=True)
class Query:
    """A registered flash query, as far as completion needs it."""

    session: str
    name: str
    choices: tuple[str, ...] = ()
    paused: bool = False


@dataclass(frozen=True)
class Scene:
    """What names may be completed: those of sessions, columns, flash queries and variables.

    Attributes:
        columns: of each open session, in its order; none before its first row.
        last: the session used last.
        variables: the likeliest first.
        models: looked for below this folder and among the models in the Hugging Face cache.
    """

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    queries: Sequence[Query] = ()
    variables: Sequence[str] = ()
    last: str | None = None
    folder: Path | None = None

    def columns_of(self, session: str | None) -> list[str]:
        """The columns that a question may be about."""
        if session is None and len(self.columns) == 1:
            (session,) = self.columns
        return list(self.columns.get(session or "", ()))


def suggestions(before: str, scene: Scene, first_line: str | None = None) -> list[str]:
    """Words that may stand at the end of a line, complete; none if the line is not the magic's.

    Args:
        before: the line up to the cursor.
        scene: what there is.
        first_line: the first line of the cell, where the cursor is further down.
    """
    *_, token = re.split(r"\s", before)
    if first_line is not None:
        words = _in_cell(token, scene, first_line)
    else:
        found = _MAGIC.search(before)
        if found is None or not found["rest"]:
            return []
        *done, token = re.split(r"\s+", found["rest"].lstrip())
        words = _in_line(done, token, scene, in_cell=found["magic"] == "%%")
    return [word for word in dict.fromkeys(words) if word.startswith(token)]


def _in_cell(token: str, scene: Scene, first_line: str) -> list[str]:
    """A question's words: columns, and after an open brace variables."""
    found = _FIRST_LINE.match(first_line)
    if found is None or "--push" in found["rest"].split():
        return []
    words = found["rest"].split()
    session = words[0] if words and words[0] in scene.columns else scene.last
    return _braced(token, scene) or scene.columns_of(session)


def _in_line(done: list[str], token: str, scene: Scene, *, in_cell: bool) -> list[str]:
    command = None if in_cell else (done[0] if done else "")
    if command == "":
        return list(COMMANDS)
    if command is not None and command not in COMMANDS:
        return []
    entry = CELL if command is None else COMMANDS[command]
    options = {option.name: option for option in entry.options}
    name, joined, value = token.partition("=")
    if joined and name in options:  # --schema=oh
        return [f"{name}={word}" for word in _values(options[name], command, scene, done, value)]
    if done and done[-1] in options and options[done[-1]].value:
        return _values(options[done[-1]], command, scene, done, token)
    words = done if command is None else done[1:]
    free = [w for w in options if w not in words and w not in excluded(set(words) & set(options))]
    if command == "help":
        return [*COMMANDS, "cell"] if not words else []
    if not words and entry.names_session:
        return [*scene.columns, *free]
    if command in ("push", "stream") and len(words) == 1:
        return [*scene.variables, *free] if words[0] in scene.columns else free
    if command in _ASKING:
        session = words[0] if words[0] in scene.columns else scene.last
        return _braced(token, scene) or [*scene.columns_of(session), *free]
    return free


def _values(
    option: Option, command: str | None, scene: Scene, done: list[str], token: str
) -> list[str]:
    """What may stand after an option."""
    if option.name == "--model":
        return models(token, scene.folder)
    if option.name == "--stream":
        return list(scene.variables)
    sessions = [word for word in done if word in scene.columns]
    queries = [q for q in scene.queries if not sessions or q.session in sessions]
    if option.name in ("--pause", "--resume", "--remove"):
        wanted = {"--pause": (False,), "--resume": (True,)}.get(option.name, (False, True))
        names = [query.name for query in queries if query.paused in wanted]
        return [f'"{name}"' if re.search(r"\s", name) else name for name in names]
    if option.name == "--choices":
        asked = [",".join(query.choices) for query in queries if query.choices]
        return [words for words in asked if not re.search(r"\s", words)] + list(option.values)
    return list(option.values)


def _braced(token: str, scene: Scene) -> list[str]:
    """``{name`` completed from the variables."""
    start, brace, _ = token.rpartition("{")
    return [f"{start}{{{name}}}" for name in scene.variables] if brace else []


def models(token: str = "", folder: Path | None = None) -> list[str]:
    """Model folders near here and ids in the Hugging Face cache; no network, and never an error."""
    found: list[str] = []
    for look in (lambda: _typed(token, folder), lambda: _near(folder), _cached):
        try:
            found += look()
        except Exception:  # completion is a courtesy: whatever is wrong with a folder, go on
            continue
    return found


def _typed(token: str, folder: Path | None) -> Iterator[str]:
    """The folders in a path that is being typed; those without a model end in a slash."""
    start, slash, _ = token.rpartition("/")
    if not slash:
        return
    place = (folder or Path()) / Path(f"{start}/").expanduser()
    for entry in sorted(place.iterdir()) if place.is_dir() else ():
        if entry.is_dir() and not entry.name.startswith("."):
            yield f"{start}/{entry.name}{'' if (entry / 'config.json').is_file() else '/'}"


def _near(folder: Path | None) -> Iterator[str]:
    """Folders with a model below the working directory, a few levels deep, for a moment."""
    start = str(folder or Path())
    end = time.monotonic() + SCAN_S
    for place, inside, files in os.walk(start):
        path = os.path.relpath(place, start)
        depth = 0 if path == "." else path.count(os.sep) + 1
        if "config.json" in files and depth:
            yield path
        hidden = depth >= SCAN_DEPTH or time.monotonic() > end
        inside[:] = [] if hidden else sorted(n for n in inside if n[0] not in "._")


def _cached() -> Iterator[str]:
    """Ids of the models in the Hugging Face cache, from the names of its folders."""
    from huggingface_hub import constants

    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        if any(place.glob("snapshots/*/config.json")):
            yield place.name.removeprefix("models--").replace("--", "/")


def scene_of(engine: Engine | None, names: Mapping[str, Any], last: str | None = None) -> Scene:
    """The scene of an engine and a user's variables."""
    sessions = list(engine.sessions.values()) if engine is not None else []
    return Scene(
        {session.name: _columns(session) for session in sessions},
        [
            Query(session.name, query.name, query.choices, query.paused)
            for session in sessions
            for query in session.flash_queries
        ],
        _likeliest(names),
        last,
    )


def _columns(session: Session) -> list[str]:
    columns = session.schema.columns or ()
    bars = session.schema.name == "ohlcv"
    return [_BAR.get(column, column) if bars else column for column in columns]


def _likeliest(names: Mapping[str, Any]) -> list[str]:
    """Names of variables: frames, lists and dicts first, and none that is surely no data."""

    def place(value: Any) -> int:
        if isinstance(value, Turn):  # which would wait to say what it has
            return 3
        if is_frame(value):
            return 0
        if isinstance(value, (list, tuple)):
            return 1
        if isinstance(value, Mapping):
            return 2
        return 4 if callable(value) else 3

    shown = {
        name: value
        for name, value in names.items()
        if not name.startswith("_")
        and not isinstance(value, (types.ModuleType, type))
        and name not in ("In", "Out", "exit", "quit", "get_ipython", "open")
    }
    return sorted(shown, key=lambda name: (place(shown[name]), name))


@context_matcher()
def matcher(context: Any) -> dict[str, Any]:
    """What IPython asks on Tab."""
    before = context.line_with_cursor[: context.cursor_position]
    first, *_ = context.full_text.split("\n", 1)
    below = first if context.cursor_line and _FIRST_LINE.match(first) else None
    if below is None and "%stateful" not in before:
        return {"completions": []}
    words = suggestions(before, _scene(), below)
    if not words:
        return {"completions": []}
    # IPython may take "--" apart from the option's name: it replaces only its own token.
    typed = re.split(r"\s", before)[-1]
    kept = len(typed) - len(context.token) if typed.endswith(context.token) else 0
    completions = [SimpleCompletion(word[kept:], type="stateful") for word in words]
    return {"completions": completions, "suppress": True, "ordered": True}


def _scene() -> Scene:
    shell = get_ipython()
    if shell is None:
        return scene_of(current_engine(), {})
    magics = shell.magics_manager.registry.get("StatefulMagics")
    names = {k: v for k, v in shell.user_ns.items() if k not in shell.user_ns_hidden}
    return scene_of(current_engine(), names, getattr(magics, "last", None))
