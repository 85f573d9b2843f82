"""``%stateful`` and ``%%stateful``: the line is parsed, then called; nothing else happens here."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from IPython.display import DisplayHandle, display

from workbench.answer import Answer
from workbench.backtest import Backtest
from workbench.errors import (
    CellsExhausted,
    OptionsError,
    QuestionError,
    SessionNotFound,
    WorkbenchError,
)
from workbench.flash.query import FlashQuery
from workbench.front import Engine, current_engine
from workbench.notebook import display as displays
from workbench.notebook.complete import matcher
from workbench.notebook.help import help_text
from workbench.notebook.options import StatefulOptions, parse_cell, parse_line
from workbench.notebook.turn import Turn, add_await
from workbench.session import Session
from workbench.streams.feed import Feed
from workbench.streams.frames import is_frame, to_rows

# The engines that `%stateful open` opened: `current_engine` knows one only while somebody holds it,
# and `%reload_ext` must not let it go.
_held: list[Engine] = []


_TIMED = r"(?:%(?:time|timeit|prun)\s+(?:-\S+\s+(?:\d+\s+)?)*)?"
_ASKS = re.compile(
    rf"^((?:[^%#\n]*=)?\s*{_TIMED}%stateful\s+(?:ask|flash|backtest)\s.*\?)(?=\s*$)"
)


@magics_class
class StatefulMagics(Magics):
    """The two magics; remembers which session was used last."""

    def __init__(self, shell: Any) -> None:
        """Belong to this shell."""
        super().__init__(shell)
        self._shell = shell
        self.last: str | None = None
        self._seen: set[str] = set()  # names of sessions that have been open

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def stateful(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> Turn[Any]:
        """Sessions that data flows into, and questions about all of it so far.

        Lines::

            %stateful open btc --prompt "You watch the tape." --schema ohlcv --cells 8192
            %stateful push btc bars
            %stateful stream btc bars --rate 10
            %stateful ask btc What was the last close?
            %stateful ask Is the trend up or down? --choices up,down --at -10
            %stateful flash btc Is the trend up or down? --choices up,down --name trend
            %stateful backtest btc Up or down? --choices up,down --every 10
            %stateful list
            %stateful close btc

        What is pushed is any expression: a dict, a text, a list of either, or a frame. There are
        also ``status``, ``use NAME``, ``flashes``, ``dashboard``, ``close --all`` and
        ``help COMMAND``, which shows a command's options and the same in Python.

        A cell, whose text is the question; the answer shows while it decodes::

            %%stateful btc --max-tokens 16
            What was the last close?

        Options of a cell:

            --choices up,down   score these answers instead of writing one
            --max-tokens N      where an open answer ends at the latest
            --stop TEXT         a text that ends it
            --temperature T     0 is greedy; with --seed N the same answer every time
            --at 500|v12|-10    as of row 500, version 12, or ten rows ago
            --push              each line of the cell is a row of text, pushed as one tick
            --flash             each line is a flash query: answered anew after every tick
            --backtest EVERY    ask as of every so many rows, --from N --to N
            --stream EXPR       first begin a background stream of these rows:
                                --rate N rows a second, or --speed 60x; --every N rows per tick
            --no-stream         show the answer only when it is complete
            -o NAME             also put the answer into this variable

        ``{name}`` in a question or an option is the value of the variable, formats included
        (``{price:.2f}``); unknown braces stay as they are. Without a name, the session used last
        is meant.

        ``x = %stateful ask ...`` assigns the `Answer`. Inside a ``def`` it assigns a turn: call
        its ``result()``. Interrupting the cell cancels the question or the back-test; what has
        arrived stays. A stream goes on in the background: ``feed.stop()`` ends it.
        """
        names = {**self._shell.user_ns, **(local_ns or {})}
        engine = current_engine()
        if cell is not None:
            options = parse_cell(line, cell, names)
        else:
            sessions = engine.sessions if engine is not None else {}
            self._seen.update(sessions, engine.names_used if engine is not None else ())
            options = parse_line(line, sessions, names, self._seen.difference(sessions))
        return self._call(options, engine, names)

    def _call(
        self, options: StatefulOptions, engine: Engine | None, names: dict[str, Any]
    ) -> Turn[Any]:
        match options.command:
            case "help":
                sys.stdout.write(help_text(options.text) + "\n")
                return Turn(None)
            case "open" | "restore":
                return Turn(self._open(options, engine))
            case "list":
                return Turn(displays.sessions_frame(engine))
            case "status":
                return Turn(_open_engine(engine).stats())
            case "dashboard":
                from workbench.notebook.dashboard import dashboard

                return Turn(dashboard(_open_engine(engine)))
            case "close" if options.every_session:
                for session in engine.sessions.values() if engine is not None else ():
                    session.close()
                return Turn(None)
            case "flash" if options.pause or options.resume or options.remove:
                return Turn(self._change(options, _open_engine(engine)))
            case "flashes":
                named = options.session is not None
                sessions = [self._session(options, engine)] if named else _sessions(engine)
                return Turn(displays.flashes_frame(sessions))
            case _:
                return self._with(self._session(options, engine), options, names)

    def _with(self, session: Session, options: StatefulOptions, names: dict[str, Any]) -> Turn[Any]:
        """What a session is wanted for."""
        match options.command:
            case "use":
                return Turn(session)
            case "save":
                with _files("save"):
                    return Turn(session.save(options.text, **options.keywords()))
            case "fork":
                return Turn(self._new(options.text, options, session.engine, session.fork))
            case "close":
                session.close()
                self.last = None
                return Turn(None)
            case "push" if options.lines:
                return Turn(session.push(list(options.lines)))
            case "push":
                return Turn(session.push(_value("push", options.text, names, to_rows)))
            case "stream" if options.ends:
                self._end_streams(session)
                return Turn(None)
            case "stream":
                return Turn(self._stream(session, options.text, options, names))
        if options.source is None:
            return self._asked(session, options)
        feed = self._stream(session, options.source, options, names)
        try:
            return self._asked(session, options)
        except BaseException:
            feed.stop()  # a cell that cannot ask changes nothing
            raise

    def _open(self, options: StatefulOptions, engine: Engine | None) -> Session:
        if options.command == "restore":
            with _files("restore"):
                Path(options.text).open("rb").close()  # before a model is loaded for it
            engine = self._engine(options, engine)
            with _files("restore"):
                return self._new(options.text, options, engine, engine.restore)
        engine = self._engine(options, engine)
        assert options.session is not None
        return self._new(options.session, options, engine, engine.open)

    def _engine(self, options: StatefulOptions, engine: Engine | None) -> Engine:
        """The engine that is open, or one of the model asked for."""
        if engine is None:
            _held[:] = [held for held in _held if not held.closed]  # whose memory this one may need
            engine = Engine(options.model)
            _held.append(engine)
        elif options.model is not None and not _runs(engine, options.model):
            msg = (
                f"an engine with model {engine.model_name!r} is open, and --model asks for "
                f"{options.model!r}; close it with wb.current_engine().close(), or open a second "
                f"one in Python: wb.Engine({options.model!r})"
            )
            raise OptionsError(msg)
        return engine

    def _new(
        self, name: str, options: StatefulOptions, engine: Engine, make: Callable[..., Session]
    ) -> Session:
        """A session that was not there before; it is the one used last from now on.

        ``name`` is what ``make`` is called with: of one in a file, that file.
        """
        try:
            session = make(name, **options.keywords())
        except TimeoutError:
            held = ", ".join(f"{s.name} {s.budget:,}" for s in engine.sessions.values())
            what = "the session in" if options.command == "restore" else "session"
            msg = (
                f"{what} {name!r} got no cells in {options.wait:g} s (held: {held}); "
                "close one of these, or ask for fewer --cells or a longer --wait"
            )
            raise CellsExhausted(msg) from None
        self.last = session.name
        self._seen.add(session.name)
        return session

    def _session(self, options: StatefulOptions, engine: Engine | None) -> Session:
        """The session meant; it is the one used last from now on."""
        engine = _open_engine(engine)
        name = options.session or self.last
        if name is None:
            names = list(engine.sessions)
            if len(names) != 1:
                msg = f"no session is in use (open: {', '.join(names) or 'none'}); name or open one"
                raise SessionNotFound(msg)
            name = names[0]
        session = engine.session(name)
        self.last = name
        return session

    def _asked(self, session: Session, options: StatefulOptions) -> Turn[Any]:
        value: Answer | Backtest
        match options.command:
            case "flash" if options.lines:
                lines = map(str.strip, options.lines)
                return Turn([_flash(session, line, options) for line in lines])
            case "flash":
                return Turn(_flash(session, options.text, options))
            case "backtest":
                value = session.backtest_start(options.text, **options.keywords())
            case _:
                value = session.ask_start(options.text, **options.keywords())
        if options.out is not None:
            self._shell.user_ns[options.out] = value  # before its end: an interrupt keeps it
        # Only a kernel can redraw what it has shown; a terminal shows the answer once, complete.
        live = options.live and self._in_kernel
        return Turn(value, _LiveOutput(self._shell.execution_count) if live else None)

    def _stream(
        self, session: Session, source: str, options: StatefulOptions, names: dict[str, Any]
    ) -> Feed:
        rows = _value("stream", source, names, _source)
        feed = session.stream(rows, **options.keywords("stream"))
        if self._in_kernel:
            displays.drawn(feed, self._shell.execution_count)  # its progress bar is there
        return feed

    def _end_streams(self, session: Session) -> None:
        if not (running := session.feeds):
            raise OptionsError(f"%stateful stream --end: no stream runs into {session.name!r}")
        for feed in running:
            feed.stop()

    def _change(self, options: StatefulOptions, engine: Engine) -> FlashQuery:
        """Pause, resume or remove a flash query, by its name or its question."""
        name = options.pause or options.resume or options.remove
        sessions = _sessions(engine)
        if options.session is not None:
            sessions = [self._session(options, engine)]
        queries = [query for session in sessions for query in session.flash_queries]
        found = [query for query in queries if name in (query.name, query.question)]
        if len({query.session.name for query in found}) > 1:
            last = [query for query in found if query.session.name == self.last]
            found = last or found
        if len({query.session.name for query in found}) != 1:
            of = f" of session {options.session!r}" if options.session is not None else ""
            known = ", ".join(repr(query.name) for query in queries) or "none"
            what = "there is none" if not found else f"{len(found)} are called so; name a session"
            msg = f"flash query {name!r}{of}: {what} (registered: {known})"
            raise QuestionError(msg)
        for query in found:  # in Python several may be called so
            if options.pause:
                query.pause()
            elif options.resume:
                query.resume()
            else:
                query.remove()
        return found[-1]

    @property
    def _in_kernel(self) -> bool:
        return getattr(self._shell, "kernel", None) is not None


class _LiveOutput:
    """One output of a cell, redrawn while an answer decodes or a back-test is under way."""

    def __init__(self, cell: int) -> None:
        self._cell = cell
        self._handle: DisplayHandle | None = None
        self._last: dict[str, str] = {}

    def show(self, value: Answer | Backtest) -> None:
        empty = not (value.text if isinstance(value, Answer) else value.answered)
        data = displays.bundle(value)
        if value.error is not None and value.finish_reason == "error" and empty:
            if self._handle is None:
                return
            data = {"text/plain": "", "text/html": ""}  # the error says it
        if data == self._last:
            return
        self._last = data
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        displays.drawn(value, self._cell)


def keep_question_mark(lines: list[str]) -> list[str]:
    """Input transformer: ``%stateful ask ... up?`` asks, where IPython would open help on ``up``.

    A ``--`` at the end, which means nothing to `parse_line`, keeps the mark from ending the line.
    Other magics' cells are left alone.
    """
    if lines and lines[0].startswith("%%"):
        return lines
    return [_ASKS.sub(r"\1 --", line) for line in lines]


def _runs(engine: Engine, model: str) -> bool:
    """Whether an engine was opened with just this model: the same id, or the same folder."""
    if engine.source is None:
        return model == engine.model_name
    if Path(model).is_dir() and Path(engine.source).is_dir():
        return Path(model).samefile(engine.source)
    return model == str(engine.source)


def _open_engine(engine: Engine | None) -> Engine:
    if engine is None:
        msg = "no session is open; open one with %stateful open NAME"
        raise SessionNotFound(msg)
    return engine


def _sessions(engine: Engine | None) -> list[Session]:
    return list(engine.sessions.values()) if engine is not None else []


def _value(command: str, expression: str, names: dict[str, Any], read: Any) -> Any:
    """What the user's expression gives, as ``read`` takes it; what it raises is one line."""
    try:
        return read(eval(expression, names))
    except WorkbenchError:
        raise
    except Exception as error:
        said = _one_line(error)
        msg = f"%stateful {command}: {expression!r} raised {type(error).__name__}: {said}"
        raise OptionsError(msg) from error


@contextlib.contextmanager
def _files(command: str) -> Iterator[None]:
    """What is wrong with a file is one line, as all else is."""
    try:
        yield
    except OSError as error:
        raise OptionsError(f"%stateful {command}: {_one_line(error)}") from error


def _flash(session: Session, question: str, options: StatefulOptions) -> FlashQuery:
    """A flash query in the place of one of that name: a cell that runs again registers no more."""
    before = session.flash_queries
    query = session.flash(question, **options.keywords())
    for other in before:
        if other.name == query.name:
            other.remove()
    return query


def _source(value: Any) -> Any:
    """What can be streamed: a frame, or rows one by one."""
    if is_frame(value) or (isinstance(value, Iterable) and not isinstance(value, _NO_SOURCE)):
        return value
    msg = (
        f"%stateful stream: expected a frame or rows one by one, got {type(value).__name__}; "
        "a single row goes in with %stateful push"
    )
    raise OptionsError(msg)


_NO_SOURCE = (Mapping, str, bytes)  # iterable, but not by rows


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def load(shell: Any) -> None:
    """Register the magics, their completion, the ``await`` and the displays."""
    unload(shell)  # loading twice must not do it twice
    shell.register_magics(StatefulMagics)
    shell.input_transformers_post.append(add_await)
    shell.input_transformers_cleanup.append(keep_question_mark)
    if getattr(shell, "Completer", None) is not None:
        shell.Completer.custom_matchers.append(matcher)
    displays.register(shell)


def unload(shell: Any) -> None:
    """Take everything back; an open engine and its sessions stay."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("stateful", None)
    shell.magics_manager.registry.pop("StatefulMagics", None)
    for hooks, hook in (
        (shell.input_transformers_post, add_await),
        (shell.input_transformers_cleanup, keep_question_mark),
        (getattr(getattr(shell, "Completer", None), "custom_matchers", []), matcher),
    ):
        while hook in hooks:
            hooks.remove(hook)
    displays.unregister(shell)
