"""A source replayed into a session by a background thread, at a pace, with progress and a stop."""

from __future__ import annotations

import contextlib
import contextvars
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from workbench.errors import Cancelled, CellsExhausted, RowError, TickDropped
from workbench.streams.frames import frame_rows, is_frame
from workbench.streams.pace import Pace
from workbench.waiting import Completion

Row = dict[str, Any]

QUIET_S = 1.0  # a source that gives nothing for so long after a stop is not waited for


class Feed(Completion):
    """Rows on their way from a source into a session; ``wait()``, ``await`` or ``stop()`` it.

    Attributes:
        rows_sent, rows_total: how far it is; the total is None where the source does not know.
        error: what ended it early, if anything did; every row before the one at fault was queued.
        unsent: rows that it took from the source and did not send, once it is done: those of the
            tick in which it was stopped, or the row at fault and what came with it.
        watched: whether anyone has waited for its end, and so is told what ended it.
    """

    def __init__(
        self,
        source: Any,
        send: Callable[[list[Any]], Completion],
        *,
        rate: float | None = None,
        speed: str | None = None,
        every: int = 1,
        progress: bool = True,
        name: str = "stream",
    ) -> None:
        super().__init__()
        _check_source(source)
        try:
            whole = operator.index(every)
        except TypeError:
            whole = 0
        if whole < 1:
            msg = f"every={every!r}: expected a whole number of rows per tick, at least one"
            raise RowError(msg)
        self._pace, self._every = Pace(rate, speed), whole
        self.rows_sent = 0
        self.watched = False
        self.unsent: list[Any] = []
        self.rows_total = _length(source)
        self._source = source
        self._send = send
        self._halt = threading.Event()
        self._reason: BaseException | None = None
        self._last: Completion | None = None
        self._ends = threading.Lock()
        self._ended = self._taking = False
        self._bar = _bar(self.rows_total, name) if progress else None
        # The copied context keeps a progress bar in the cell that started the stream.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._run,), name=f"feed-{name}", daemon=True
        )
        self._thread.start()

    def stop(self, reason: BaseException | None = None) -> None:
        """Send nothing more; what was queued is still ingested, the rest of a tick is `unsent`.

        A source that gives nothing is not waited for: what it gives later is `unsent` too.

        Args:
            reason: the error it ends with, where it is not stopped by choice.
        """
        with self._ends:
            self._reason = self._reason or reason
            self._halt.set()
            quiet = self._taking
        if quiet:
            with contextlib.suppress(RuntimeError):  # the process ends, which starts no threads
                threading.Thread(target=self._end_without_source, daemon=True).start()

    def join(self, timeout: float | None = None) -> None:
        """As `Completion.join`."""
        self.watched = True
        super().join(timeout)

    async def join_async(self) -> None:
        """As `Completion.join_async`."""
        self.watched = True
        await super().join_async()

    def wait(self, timeout: float | None = None) -> int:
        """Block until every row is visible to questions; returns how many were sent.

        Raises:
            TimeoutError: it goes on. WorkbenchError: what ended the stream early.
        """
        try:
            self.join(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        return self.rows_sent

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            source = iter(_rows(self._source))
            while self._take(source) and self._due():
                self._queue()
        except RowError as bad:
            sent = f"{self.rows_sent:,} row{'s' * (self.rows_sent != 1)}"
            error = RowError(f"after {sent} of the stream: {bad}")
            error.__cause__ = bad
        except BaseException as caught:  # polars' panics are no Exception, and waited for as well
            error = caught
        self._end(error)

    def _end_without_source(self) -> None:
        """End although the source is being waited for, if it gives nothing within a moment."""
        self._thread.join(QUIET_S)
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """What was queued becomes visible, and whoever waits goes on; once."""
        with self._ends:
            if self._ended:
                return
            self._ended = True
            error = error or self._reason
        self._send = _send_nothing  # a source that goes on giving nothing keeps no engine alive
        try:
            if self._last is not None:
                with contextlib.suppress(TickDropped, Cancelled):  # which the session counts
                    self._last.join()  # what was queued is visible before it ends, well or not
        except BaseException as caught:
            error = error or caught
        try:
            if self._bar is not None:
                if error is None:
                    self._bar.total = self._bar.n  # one that was stopped is not shown as failed
                self._bar.close()
        finally:
            self.finish(error)

    def _take(self, source: Iterator[Any]) -> bool:
        """Take the next tick's rows; whether there are any.

        Those that come before an error of the source are sent before it is raised.
        """
        try:
            while len(self.unsent) < self._every and self._may_take():
                row = next(source)
                self.unsent.append(row)
                with self._ends:
                    self._taking = False
        except StopIteration:
            pass
        except BaseException:
            if self.unsent and self._due():
                self._queue()
            raise
        return bool(self.unsent)

    def _may_take(self) -> bool:
        """Whether the next row is to be taken from the source, which is then waited for."""
        with self._ends:
            self._taking = not self._halt.is_set()
            return self._taking

    def _due(self) -> bool:
        """Wait until what was taken is due; false where the feed is stopped before that.

        Where the latest row has no time to go by, those before it are sent.
        """
        if self._halt.is_set():
            return False
        try:
            seconds = self._pace.seconds_to(self.unsent)
        except RowError:
            if self.unsent[:-1]:
                self._queue(keep=1)
            raise
        return not self._halt.wait(seconds)

    def _queue(self, keep: int = 0) -> None:
        """Send what was taken; where it is refused, those rows that come before the one at fault.

        The last ``keep`` rows stay.
        """
        rows = self.unsent[: len(self.unsent) - keep]
        try:
            self._sent(self._send(rows), len(rows))
        except (RowError, CellsExhausted, TypeError, ValueError, ArithmeticError):
            if len(rows) == 1:
                raise
            for row in rows:
                self._sent(self._send([row]), 1)

    def _sent(self, tick: Completion, rows: int) -> None:
        self._last = tick
        self.rows_sent += rows
        del self.unsent[:rows]
        if self._bar is not None:
            self._bar.update(rows)

    def __repr__(self) -> str:
        state = "running"
        if self.done:
            state = f"failed: {self.error}" if self.error else "done"
        total = "?" if self.rows_total is None else f"{self.rows_total:,}"
        return f"Feed({self.rows_sent:,} of {total} rows, {state})"


def _send_nothing(rows: list[Any]) -> Completion:
    raise AssertionError(f"{len(rows)} rows after the end")


def _check_source(source: Any) -> None:
    if is_frame(source):
        return
    kind = type(source).__name__
    expected = "expected a frame or an iterable of rows as the stream's source, got"
    if isinstance(source, os.PathLike):
        raise RowError(f"{expected} the path {source}; read it first: polars.scan_csv(path)")
    if hasattr(source, "__aiter__"):
        msg = f"{expected} the async {kind}; push its rows: async for row in rows: s.push(row)"
        raise RowError(msg)
    single = isinstance(source, (str, bytes, Mapping))
    if single or not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        raise RowError(f"{expected} a {kind}; push(row) takes a single one")


def _rows(source: Any) -> Iterable[Any]:
    return frame_rows(source) if is_frame(source) else source


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


def _bar(total: int | None, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit=" rows")
