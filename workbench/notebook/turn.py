"""What a magic hands back: a value, or one on its way that a cell awaits and can interrupt."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import time
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeVar

from workbench.answer import Answer
from workbench.errors import WorkbenchError
from workbench.waiting import Completion

T = TypeVar("T")

POLL_S = 0.01  # how soon an answer's end is seen
SHOW_S = 0.08  # seconds between two pictures of an answer that is being decoded


class Live(Protocol):
    """Where an answer is shown while it decodes."""

    def show(self, answer: Answer) -> None:
        """Draw it as it is now."""


class Turn(Generic[T]):
    """The outcome of one ``%stateful``: ``await`` it, or call ``result()``; both give the value.

    At the top level of a cell the extension writes the ``await`` itself, so ``x = %stateful ...``
    assigns the value. Inside a ``def`` it does not: there ``x`` is the turn, call ``x.result()``.
    An interrupt cancels a question; the text that has arrived stays, on screen and in its `Answer`.

    Args:
        value: what it gives: an `Answer` or a `Tick` is waited for first.
        live: where an answer's text is drawn as it comes; None draws nothing.
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
        return not isinstance(self.value, Completion) or self.value.done

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
        except KeyboardInterrupt:
            self._stop()
            raise
        return self._end()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking the loop."""
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            while not self.done:
                await asyncio.sleep(POLL_S)
                self._draw()
        except asyncio.CancelledError:  # so an interrupt reaches a cell that awaits
            self._stop()
            raise KeyboardInterrupt from None
        return self._end()

    @property
    def _pending(self) -> Completion:
        assert isinstance(self.value, Completion)
        return self.value

    def _draw(self, *, force: bool = False) -> None:
        if self._live is None or not isinstance(self.value, Answer):
            return
        now = time.monotonic()
        if force or now - self._shown_at >= SHOW_S:
            self._shown_at = now
            self._live.show(self.value)

    def _end(self) -> T:
        self._draw(force=True)
        if isinstance(self.value, Completion) and self.value.error is not None:
            raise self.value.error
        return self.value

    def _stop(self) -> None:
        if isinstance(self.value, Answer):
            self.value.cancel()
            with contextlib.suppress(TimeoutError, WorkbenchError):
                self.value.join(1.0)  # until the step under way ends
        self._draw(force=True)

    def __repr__(self) -> str:
        """The value's own, once it is complete."""
        if self.done:
            return repr(self.value)
        return f"Turn({self.value!r}; await it or call result())"


def add_await(lines: list[str]) -> list[str]:
    """Input transformer: ``await`` before every ``%stateful`` at the top level of a cell.

    It reads the syntax tree, so a magic inside a ``def`` (where ``await`` would be an error) and
    the same words inside a string are left alone.
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
    out = source.splitlines(keepends=True)
    for row, column in sorted(calls.spots, reverse=True):
        line = out[row].encode()  # the tree counts columns in bytes
        out[row] = (line[:column] + b"await " + line[column:]).decode()
    return out


class _Calls(ast.NodeVisitor):
    """Where ``run_line_magic('stateful', ...)`` is called and may be awaited."""

    def __init__(self) -> None:
        self.spots: list[tuple[int, int]] = []

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
            self.spots.append((node.lineno - 1, node.col_offset))
        self.generic_visit(node)
