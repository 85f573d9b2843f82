"""A source replayed into a session by a background thread, at a pace, with progress and a stop."""

from __future__ import annotations

import contextvars
import datetime as dt
import operator
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from workbench.errors import CellsExhausted, RowError
from workbench.streams.frames import frame_rows, is_frame
from workbench.streams.render import TIME_NAMES
from workbench.waiting import Completion

Row = dict[str, Any]


class Feed(Completion):
    """Rows on their way from a source into a session; ``wait()``, ``await`` or ``stop()`` it.

    Attributes:
        rows_sent, rows_total: how far it is; the total is None where the source does not know.
        error: what ended it early, if anything did; every row before the one at fault was queued.
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
        if rate is not None and not (isinstance(rate, (int, float)) and rate > 0):
            msg = f"rate={rate!r}: expected rows per second above 0, or None for as fast as it goes"
            raise RowError(msg)
        if rate is not None and speed is not None:
            msg = f"rate={rate} and speed={speed!r}: expected one of them"
            raise RowError(msg)
        self.rows_sent = 0
        self.rows_total = _length(source)
        self._source = source
        self._send = send
        self._rate, self._factor, self._every = rate, _factor(speed), whole
        self._halt = threading.Event()
        self._last: Completion | None = None
        self._bar = _bar(self.rows_total, name) if progress else None
        # The copied context keeps a progress bar in the cell that started the stream.
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(self._run,), name=f"feed-{name}", daemon=True)
        thread.start()

    def stop(self) -> None:
        """Send nothing more; what was queued is still ingested."""
        self._halt.set()

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
            for rows, pause in self._paced():
                if self._halt.wait(pause) if pause else self._halt.is_set():
                    break
                self._queue(rows)
        except RowError as bad:
            sent = f"{self.rows_sent:,} row{'s' * (self.rows_sent != 1)}"
            error = RowError(f"after {sent} of the stream: {bad}")
            error.__cause__ = bad
        except BaseException as caught:  # polars' panics are no Exception, and waited for as well
            error = caught
        try:
            if self._last is not None:
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

    def _queue(self, rows: list[Any]) -> None:
        """Send a tick; where it is refused, those of its rows that come before the one at fault."""
        try:
            self._sent(self._send(rows), len(rows))
        except (RowError, CellsExhausted):
            if len(rows) == 1:
                raise
            for row in rows:
                self._sent(self._send([row]), 1)

    def _sent(self, tick: Completion, rows: int) -> None:
        self._last = tick
        self.rows_sent += rows
        if self._bar is not None:
            self._bar.update(rows)

    def _paced(self) -> Iterator[tuple[list[Any], float]]:
        """Ticks of rows, each with the seconds to wait before it."""
        before: dt.datetime | None = None
        for tick in _ticks(_rows(self._source), self._every):
            pause = 0.0
            if self._rate is not None:
                pause = len(tick) / self._rate
            elif self._factor is not None:
                try:
                    now = _time_of(tick[-1])
                except RowError:
                    if tick[:-1]:
                        yield tick[:-1], 0.0
                    raise
                if before is not None:
                    pause = max(0.0, (now - before).total_seconds() / self._factor)
                before = now
            yield tick, pause

    def __repr__(self) -> str:
        state = "running"
        if self.done:
            state = f"failed: {self.error}" if self.error else "done"
        total = "?" if self.rows_total is None else f"{self.rows_total:,}"
        return f"Feed({self.rows_sent:,} of {total} rows, {state})"


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


def _ticks(rows: Iterable[Any], every: int) -> Iterator[list[Any]]:
    """So many rows at a time; those that came before an error of the source come before it here."""
    left = iter(rows)
    while True:
        tick: list[Any] = []
        try:
            for row in islice(left, every):
                tick.append(row)
        except BaseException:
            if tick:
                yield tick
            raise
        if not tick:
            return
        yield tick


def _rows(source: Any) -> Iterable[Any]:
    return frame_rows(source) if is_frame(source) else source


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


def _factor(speed: str | None) -> float | None:
    if speed is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*)x", speed)
    if not found or not float(found[1]) > 0:
        msg = f"speed={speed!r}: expected a factor on the rows' own time, such as '60x'"
        raise RowError(msg)
    return float(found[1])


def _time_of(row: Any) -> dt.datetime:
    for name, value in row.items() if isinstance(row, dict) else ():
        if name.lower() in TIME_NAMES:
            if isinstance(value, dt.datetime):
                return value
            if isinstance(value, dt.date):
                return dt.datetime(value.year, value.month, value.day)
            if isinstance(value, (int, float)):
                return dt.datetime.fromtimestamp(value)
            try:
                return dt.datetime.fromisoformat(str(value))
            except ValueError:
                break
    msg = (
        f"speed= replays by the rows' own time, and {row!r} has no column "
        f"{'/'.join(sorted(TIME_NAMES))} with one; use rate= (rows per second)"
    )
    raise RowError(msg)


def _bar(total: int | None, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit=" rows")
