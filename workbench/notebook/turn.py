"""What a magic hands back: a value, or one on its way that a cell awaits and can interrupt."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import sys
import time
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeVar

from IPython import get_ipython
from IPython.display import display

from workbench.answer import Answer
from workbench.backtest import Backtest
from workbench.errors import WorkbenchError
from workbench.streams.feed import Feed
from workbench.tick import Tick
from workbench.waiting import Completion

T = TypeVar("T")

POLL_S = 0.01  # how soon an answer's end is seen
SHOW_S = 0.08  # seconds between two pictures of an answer that is being decoded
SHOW_TEST_S = 0.25  # the same of a back-test, whose picture is larger


class Live(Protocol):
    """Where an answer is shown while it decodes, or a back-test while it is under way."""

    def show(self, value: Answer | Backtest) -> None:
        """Draw it as it is now."""


class Turn(Generic[T]):
    """The outcome of one ``%stateful``: ``await`` it, or call ``result()``; both give the value.

    At the top level of a cell the extension writes the ``await`` itself, so ``x = %stateful ...``
    assigns the value; in a cell under ``%%time`` or ``%%capture``, where nothing can be awaited, it
    calls ``result()``. Inside a ``def`` it does neither, nor in the cell that loads the extension:
    there ``x`` is the turn, which waits for the value and hands its attributes on.
    An interrupt cancels a question or a back-test, and so does cancelling the task that awaits it;
    what has arrived stays, on screen and in the value. Rows are taken back, unless the model has
    begun to read them.

    Args:
        value: what it gives: an `Answer`, a `Backtest` or a `Tick` is waited for first; a `Feed`
            is not, it goes on in the background.
        live: where the value is drawn as it comes; None draws nothing.
    """

    def __init__(self, value: T, live: Live | None = None) -> None:
        """Draw the value as it is now."""
        self.value = value
        self._live = live
        self._shown_at = 0.0
        if live is not None:
            self._draw(force=True)

    @property
    def done(self) -> bool:
        """Whether the value is complete."""
        return not self._waits or self._pending.done

    def result(self, timeout: float | None = None) -> T:
        """Block until it is complete.

        Raises:
            TimeoutError: not complete after ``timeout`` seconds; it goes on.
            WorkbenchError: what went wrong.
        """
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.done:
                left = POLL_S if end is None else min(POLL_S, end - time.monotonic())
                if left <= 0:
                    msg = f"not done after {timeout} s; it goes on, call result() again"
                    raise TimeoutError(msg)
                with contextlib.suppress(TimeoutError, WorkbenchError):
                    self._pending.join(left)
                self._draw()
        except KeyboardInterrupt as interrupt:
            raise _in_a_line(interrupt, self._stop()) from None
        return self._end()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the loop."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            while not self.done:
                await asyncio.sleep(POLL_S)
                self._draw()
        except asyncio.CancelledError as cancelled:  # an interrupt reaches a cell that awaits so
            _in_a_line(cancelled, self._stop())
            raise
        return self._end()

    @property
    def _waits(self) -> bool:
        return isinstance(self.value, Completion) and not isinstance(self.value, Feed)

    @property
    def _pending(self) -> Completion:
        assert isinstance(self.value, Completion)
        return self.value

    def _draw(self, *, force: bool = False) -> None:
        if self._live is None or not isinstance(self.value, Answer | Backtest):
            return
        now = time.monotonic()
        pause = SHOW_S if isinstance(self.value, Answer) else SHOW_TEST_S
        if force or now - self._shown_at >= pause:
            self._shown_at = now
            self._live.show(self.value)

    def _end(self) -> T:
        self._draw(force=True)
        if self._waits and self._pending.error is not None:
            raise self._pending.error
        return self.value

    def _stop(self) -> str:
        """End what can be ended; says what is so now."""
        if isinstance(self.value, Tick):
            if self.value.cancel():
                return "none of the rows were taken"
            return "the rows are being read and will be visible; close the session to end that"
        if isinstance(self.value, Answer | Backtest):
            self.value.cancel()
            with contextlib.suppress(TimeoutError, WorkbenchError):
                self.value.join(1.0)  # until the step under way ends
        self._draw(force=True)
        return "what has arrived stays"

    def __getattr__(self, name: str) -> Any:
        """The value's own, once it is complete: for where no ``await`` could be written.

        That is inside a ``def``, and in the very cell that loads the extension.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.result(), name)

    def _ipython_display_(self) -> None:
        """As the value looks, once it is complete: nobody awaits one in the cell that loads us."""
        if (value := self.result()) is not None:
            display(value)

    def __repr__(self) -> str:
        """The value's own, once it is complete."""
        if self.done:
            return repr(self.value)
        return f"Turn({self.value!r}; await it or call result())"


def _in_a_line(stopped: BaseException, left: str) -> BaseException:
    """One line in a notebook: where a question was waiting is nobody's concern."""
    line = f"{type(stopped).__name__}: stopped, {left}"
    stopped._render_traceback_ = lambda *_: [line]  # type: ignore[attr-defined]
    return stopped


def add_await(lines: list[str]) -> list[str]:
    """Input transformer: ``await`` before every ``%stateful`` at the top level of a cell.

    It reads the syntax tree, so a magic inside a ``def`` (where ``await`` would be an error) and
    the same words inside a string are left alone. Code that another magic runs, such as
    ``%%time`` or ``%%capture``, cannot await, nor any after ``%autoawait off``: there
    ``.result()`` is written behind.
    """
    source = "".join(lines)
    if "magic('stateful'" not in source:
        return lines
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return lines
    calls = _Calls()
    calls.visit(tree)
    shell = get_ipython()
    may_await = (shell is None or shell.autoawait) and not _inside_a_cell()
    words = b"await " if may_await else b".result()"
    out = io.StringIO(source, newline="\n").readlines()  # lines as the tree counts them
    for begin, end in sorted(calls.spots, reverse=True):
        row, column = end if words == b".result()" else begin
        line = out[row].encode()  # the tree counts columns in bytes
        out[row] = (line[:column] + words + line[column:]).decode()
    return out


def _inside_a_cell() -> bool:
    """Whether a cell runs, of which this is a part: then IPython's ``run_code`` has called us."""
    frame = sys._getframe()
    while (above := frame.f_back) is not None:
        frame = above
        if frame.f_code.co_name == "run_code" and "interactiveshell" in frame.f_code.co_filename:
            return True
    return False


class _Calls(ast.NodeVisitor):
    """Where ``run_line_magic('stateful', ...)`` is called and may be awaited."""

    def __init__(self) -> None:
        self.spots: list[tuple[tuple[int, int], tuple[int, int]]] = []

    def _leave(self, node: ast.AST) -> None:
        """Inside these, ``await`` is wrong, or there already."""

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _leave
    visit_ClassDef = visit_Await = _leave

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", "")
        if (
            name in ("run_line_magic", "run_cell_magic")
            and node.args
            and getattr(node.args[0], "value", None) == "stateful"
        ):
            assert node.end_lineno is not None and node.end_col_offset is not None
            begin = node.lineno - 1, node.col_offset
            self.spots.append((begin, (node.end_lineno - 1, node.end_col_offset)))
        self.generic_visit(node)
