"""``%stateful`` and ``%%stateful``: the line is parsed, then called; nothing else happens here."""

from __future__ import annotations

import re
import sys
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
from workbench.errors import OptionsError, SessionNotFound, WorkbenchError
from workbench.front import Engine, current_engine
from workbench.notebook import display as displays
from workbench.notebook.complete import matcher
from workbench.notebook.options import StatefulOptions, parse_cell, parse_line
from workbench.notebook.turn import Turn, add_await
from workbench.session import Session

HELP = """\
%stateful open NAME [--prompt "..."] [--schema ohlcv] [--cells N] [--model ID] [--on-full raise]
                    [--overflow error|rebuild|evict] [--window TOKENS] [--evictable]
%stateful list | status | use NAME | close [NAME | --all] | dashboard
%stateful push NAME EXPRESSION              a dict, text, list of either, or frame
%stateful ask [NAME] words of the question  [--choices up,down] [--max-tokens N] [-o VAR]
%stateful flash [NAME] words of the question [--choices up,down] [--name SHORT]

%%stateful [NAME] [--choices up,down] [--max-tokens N] [--push] [--flash] [--no-stream] [-o VAR]
the cell's text is the question; with --push each line is a row, with --flash a flash query

Without NAME the session used last is meant. {name} in a question is the variable's value.
In Python: s = wb.Engine().open("btc"); s.push(row); s.ask("..."); s.flash("...")"""

# The engine that `%stateful open` opened: `current_engine` knows it only while somebody holds it,
# and `%reload_ext` must not let it go.
_held: list[Engine] = []


_ASKS = re.compile(r"^(\s*(?:[\w.,\s]+=\s*)?%stateful\s+(?:ask|flash)\s.*\?)(?=\s*$)")


@magics_class
class StatefulMagics(Magics):
    """The two magics; remembers only which session was used last."""

    def __init__(self, shell: Any) -> None:
        """Belong to this shell."""
        super().__init__(shell)
        self._shell = shell
        self.last: str | None = None

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
            %stateful ask btc What was the last close?
            %stateful ask Is the trend up or down? --choices up,down
            %stateful flash btc Is the trend up or down? --choices up,down
            %stateful list
            %stateful close btc

        What is pushed is any expression: a dict, a text, a list of either, or a frame. There are
        also ``status``, ``use NAME``, ``dashboard``, ``close --all`` and ``help``.

        A cell, whose text is the question; the answer shows while it decodes::

            %%stateful btc --max-tokens 16
            What was the last close?

        Options of a cell:

            --choices up,down   score these answers instead of writing one
            --max-tokens N      where an open answer ends at the latest
            --push              each line of the cell is a row of text, pushed as one tick
            --flash             each line is a flash query: answered anew after every tick
            --no-stream         show the answer only when it is complete
            -o VAR              also put the answer into this variable

        ``{name}`` in a question or an option is the value of the variable, formats included
        (``{price:.2f}``); unknown braces stay as they are. Without a name, the session used last
        is meant.

        ``x = %stateful ask ...`` assigns the `Answer`. Inside a ``def`` it assigns a turn: call
        its ``result()``. Interrupting the cell cancels the question; the text so far stays.
        """
        names = {**self._shell.user_ns, **(local_ns or {})}
        engine = current_engine()
        if cell is not None:
            options = parse_cell(line, cell, names)
        else:
            options = parse_line(line, engine.sessions if engine is not None else (), names)
        return self._call(options, engine, names)

    def _call(
        self, options: StatefulOptions, engine: Engine | None, names: dict[str, Any]
    ) -> Turn[Any]:
        match options.command:
            case "help":
                self._say(HELP)
                return Turn(None)
            case "open":
                return Turn(self._open(options, engine))
            case "list":
                return Turn(displays.sessions_frame(engine))
            case "close" if options.every_session:
                for session in engine.sessions.values() if engine is not None else ():
                    session.close()
                return Turn(None)
            case "ask":
                return self._ask(self._session(options, engine), options)
            case "push":
                session = self._session(options, engine)
                rows = options.lines or self._value(options.text, names)
                return Turn(session.push(list(rows) if options.lines else rows))
            case "flash":
                return Turn(self._flash(self._session(options, engine), options))
            case "use":
                return Turn(self._session(options, engine))
            case "close":
                self._session(options, engine).close()
                self.last = None
                return Turn(None)
            case "status":
                return Turn(_open_engine(engine).stats())
            case _:
                from workbench.notebook.dashboard import dashboard

                return Turn(dashboard(_open_engine(engine)))

    def _open(self, options: StatefulOptions, engine: Engine | None) -> Session:
        assert options.session is not None
        if engine is None:
            engine = Engine(options.model)
            _held[:] = [engine]
        elif options.model is not None and options.model != engine.model_name:
            msg = (
                f"an engine with model {engine.model_name!r} is open, and --model asks for "
                f"{options.model!r}; close it with wb.current_engine().close(), or open a second "
                f"one in Python: wb.Engine({options.model!r})"
            )
            raise OptionsError(msg)
        session = engine.open(
            options.session, prompt=options.prompt, schema=options.schema, cells=options.cells,
            on_full=options.on_full,  # type: ignore[arg-type]
            overflow=options.overflow,  # type: ignore[arg-type]
            window=options.window, evictable=options.evictable,
        )  # fmt: skip
        self.last = options.session
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

    def _ask(self, session: Session, options: StatefulOptions) -> Turn[Answer]:
        asked: dict[str, Any] = {"choices": options.choices}
        if options.max_tokens is not None:
            asked["max_tokens"] = options.max_tokens
        answer = session.ask_start(options.text, **asked)
        if options.out is not None:
            self._shell.user_ns[options.out] = answer  # before its end: an interrupt keeps it
        # Only a kernel can redraw what it has shown; a terminal shows the answer once, complete.
        live = options.stream and getattr(self._shell, "kernel", None) is not None
        return Turn(answer, _LiveOutput(self._shell.execution_count) if live else None)

    def _flash(self, session: Session, options: StatefulOptions) -> Any:
        asked: dict[str, Any] = {"choices": options.choices}
        if options.max_tokens is not None:
            asked["max_tokens"] = options.max_tokens
        if not options.lines:
            return session.flash(options.text, name=options.name, **asked)
        return [session.flash(line, **asked) for line in map(str.strip, options.lines)]

    def _value(self, expression: str, names: dict[str, Any]) -> Any:
        try:
            return eval(expression, names)
        except WorkbenchError:
            raise
        except Exception as error:
            msg = f"%stateful push: {expression!r} raised {type(error).__name__}: {error}"
            raise OptionsError(msg) from error

    def _say(self, words: str) -> None:
        sys.stdout.write(words + "\n")


class _LiveOutput:
    """One output of a cell, redrawn while an answer decodes."""

    def __init__(self, cell: int) -> None:
        self._cell = cell
        self._handle: DisplayHandle | None = None
        self._last: dict[str, str] = {}

    def show(self, answer: Answer) -> None:
        if answer.error is not None and answer.finish_reason == "error" and not answer.text:
            return  # the error says it
        data = displays.bundle(answer)
        if data == self._last:
            return
        self._last = data
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        displays.drawn(answer, self._cell)


def keep_question_mark(lines: list[str]) -> list[str]:
    """Input transformer: ``%stateful ask ... up?`` asks, where IPython would open help on ``up``.

    A ``--`` at the end, which means nothing to `parse_line`, keeps the mark from ending the line.
    Other magics' cells are left alone.
    """
    if lines and lines[0].startswith("%%"):
        return lines
    return [_ASKS.sub(r"\1 --", line) for line in lines]


def _open_engine(engine: Engine | None) -> Engine:
    if engine is None:
        msg = "no session is open; open one with %stateful open NAME"
        raise SessionNotFound(msg)
    return engine


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
