"""A session: what it holds, and how data gets into it; what it is asked is in `askable`."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import errors
from workbench.askable import Askable
from workbench.engine.origin import Origin
from workbench.engine.work import Ingest
from workbench.errors import (
    Cancelled,
    CellsExhausted,
    EngineClosed,
    RowError,
    TickDropped,
)
from workbench.events import Pushed, RowsDropped, SessionClosed
from workbench.moment import Moment, moment
from workbench.opening import fork_of
from workbench.snapshot import save
from workbench.streams.feed import Feed
from workbench.streams.frames import to_rows
from workbench.streams.render import Schema
from workbench.tick import Tick
from workbench.waiting import Completion, check_may_wait

if TYPE_CHECKING:
    from workbench.front import Engine


class Session(Askable):
    """A long-lived context that data is pushed into and questions are asked of.

    Opened by ``engine.open(name)``. Attributes are live and may be read from any thread.
    """

    def __init__(self, engine: Engine, ingest: Ingest, prompt: str | None, schema: Schema) -> None:
        super().__init__(engine, ingest)
        self.prompt = prompt
        self.schema = schema
        ingest.ticks.after_take_back = self._taken_back
        self._feeds: weakref.WeakSet[Feed] = weakref.WeakSet()

    # What it holds.

    @property
    def version(self) -> int:
        """Ticks that questions see."""
        return self.ingest.now.version

    @property
    def position(self) -> int:
        """Tokens that questions see, the prompt's included."""
        return self.ingest.now.position

    @property
    def rows(self) -> int:
        """Rows that questions see."""
        return self.ingest.now.rows

    @property
    def budget(self) -> int:
        """Cells it may hold."""
        return self.ingest.budget

    @property
    def capacity(self) -> int:
        """Tokens it can show at most: its budget, or half of it where a window is rebuilt."""
        return self.ingest.capacity

    @property
    def state(self) -> str:
        """One of "open", "evicted", "behind", "stands still" (see ``error``) and "closed".

        An evictable session that has not had its cells yet is "waiting".
        """
        if self.closed:
            return "closed"
        if self.error is not None:
            return "stands still"
        if not self.resident:
            return "waiting" if self.ingest.evicted_at is None else "evicted"
        return "behind" if self.behind else "open"

    @property
    def cells_used(self) -> int:
        """Cells it has filled, a tick that is half in included; 0 while it is evicted."""
        return self.ingest.line.computed

    @property
    def overflow(self) -> str:
        """What it does when it is full: "error", "rebuild" or "evict"."""
        return self.ingest.window.overflow if self.ingest.window is not None else "error"

    @property
    def window_rows(self) -> int:
        """Rows that an answer can still see; all of them unless old ones have left."""
        window = self.ingest.window
        return self.rows if window is None else len(window.rows)

    @property
    def behind(self) -> bool:
        """Whether rows come faster than its window can move; they wait, none is lost."""
        return self.ingest.window is not None and self.ingest.window.stalled

    @property
    def evictable(self) -> bool:
        """Whether its cells may go to others while it is idle."""
        return self.ingest.evictable

    @property
    def resident(self) -> bool:
        """Whether it has its cells; an evicted one is computed again when something is asked."""
        return self.ingest.resident

    @property
    def return_cost_s(self) -> float:
        """Seconds until an evicted session could answer, by the engine's cost model; else 0."""
        if self.resident:
            return 0.0
        return self.engine.core.prefill_seconds(len(self.ingest.line.token_ids))

    @property
    def pending_rows(self) -> int:
        """Rows queued and not yet visible."""
        return self.ingest.ticks.rows

    @property
    def dropped_rows(self) -> int:
        """Rows that a full queue dropped (``on_full='drop_oldest'`` only)."""
        return self.ingest.ticks.dropped_rows

    @property
    def error(self) -> BaseException | None:
        """Why ingestion stands still, if it does; ``retry()`` goes on."""
        return self.ingest.error

    @property
    def token_ids(self) -> list[int]:
        """The log of the tokens an answer can see, oldest first; ones of a half-read tick too."""
        return list(self.ingest.line.token_ids)

    # Data in.

    def push(self, data: Any) -> Tick:
        """Queue rows; returns at once with a `Tick` to wait for, unless the queue is full.

        Args:
            data: a dict, a text, a list of either, or a polars or pandas frame. All of it becomes
                visible to questions together, as one version.

        Raises:
            RowError: a row does not fit the schema. CellsExhausted: the session's budget has no
            room for it. QueueFull, SessionClosed, SessionFaulted, EngineClosed: it cannot be
            queued. In every case none of the rows were taken.
        """
        return self._push(to_rows(data), from_stream=False)

    def stream(
        self,
        source: Any,
        *,
        rate: float | None = None,
        speed: str | None = None,
        every: int = 1,
        progress: bool = True,
    ) -> Feed:
        """Push a whole source from a background thread.

        What ends it early is written to standard error, unless somebody waits for the feed.

        Args:
            source: a polars (also lazy) or pandas frame, or any iterable of dicts or texts.
            rate: rows per second; None is as fast as the engine takes them.
            speed: instead, a factor on the rows' own time column, such as "60x".
            every: rows per tick.
            progress: show a progress bar.
        """
        self._check_open()

        def send(rows: list[Any]) -> Completion:
            return self._push(to_rows(rows), from_stream=True)

        feed = Feed(source, send, rate=rate, speed=speed, every=every, progress=progress,
                    name=self.name)  # fmt: skip
        self._feeds.add(feed)

        def tell() -> None:
            ours = isinstance(feed.error, errors.SessionClosed | EngineClosed)
            if feed.error is not None and not ours and not feed.watched:
                said = (str(feed.error).strip() or repr(feed.error)).splitlines()[0]
                errors.warn(f"the stream into {self.name!r} ended early: {said}")

        feed.when_done(tell)
        return feed

    @property
    def feeds(self) -> list[Feed]:
        """Its streams that are still running."""
        return [feed for feed in list(self._feeds) if not feed.done]

    def end_feeds(self, reason: BaseException) -> None:
        """Stop its streams: there is nothing left to send to."""
        for feed in self.feeds:
            feed.stop(reason)

    def flush(self, timeout: float | None = None) -> int:
        """Block until everything queued so far is visible; returns the version."""
        while (last := self.ingest.ticks.last(from_stream=True)) is not None:
            with contextlib.suppress(TickDropped, Cancelled):  # then newer rows may be there
                last.join(timeout)
                break
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.version

    def retry(self) -> None:
        """Go on ingesting after a fault, from the row where it stopped."""
        self.engine.call(lambda: self.engine.ingestion.retry(self.ingest))
        self.engine.wake()

    def _push(self, rows: Sequence[Any], *, from_stream: bool) -> Tick:
        self._check_open()
        ticks = self.ingest.ticks
        with self._in_order():
            columns = self.schema.columns
            try:
                tick, dropped = self._queue(rows, from_stream)
            except BaseException:  # whoever waits for room may be interrupted
                self.schema.columns = columns  # rows that were not taken fix no columns
                raise
            pending = self.pending_rows
        # Whoever is told may push as well.
        if tick.num_tokens == 0:
            tick.version = self.version
            tick.finish()
            return tick
        self.engine.wake()
        if dropped:
            ticks.dropped(dropped)
            gone = sum(old.rows for old in dropped)
            self.engine.events.emit(RowsDropped(session=self.name, rows=gone))
        self.engine.events.emit(
            Pushed(session=self.name, rows=len(rows), tokens=tick.num_tokens, pending_rows=pending)
        )
        return tick

    def _taken_back(self) -> None:
        """Rows that have been taken back fix no columns; questions that waited for them go on."""
        lock = self.engine.push_lock(self.ingest)
        if lock.acquire(blocking=False):  # else a push is on its way, which has seen the columns
            try:
                if self.rows == 0 and not self.ingest.ticks.waiting():
                    self.schema.columns = None
            finally:
                lock.release()
        with contextlib.suppress(EngineClosed):
            self.engine.post(lambda: self.engine.questions.release(self.ingest))

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """One push at a time, so that what is checked is what is queued.

        In the engine's own thread, which alone could make room, it does not wait for one that
        waits for room.
        """
        lock = self.engine.push_lock(self.ingest)
        while not lock.acquire(timeout=0.05):
            if self.ingest.ticks.blocked:
                check_may_wait()
        try:
            yield
        finally:
            lock.release()

    def _queue(self, rows: Sequence[Any], from_stream: bool) -> tuple[Tick, list[Tick]]:
        """The tick of some rows, queued, and those that were dropped for it."""
        ids, starts = self.engine.tokens.rows(self._render(rows))
        self._check_room(len(ids), len(rows))
        tick = Tick(ids, len(rows), from_stream=from_stream, row_starts=starts)
        return tick, self.ingest.ticks.put(tick) if ids else []

    def _check_room(self, num_tokens: int, num_rows: int) -> None:
        """Refuse what could never be ingested, before any of it is queued."""
        used, window = self.ingest.ticks.accepted_tokens, self.ingest.window
        need = f"session {self.name!r} needs {num_tokens:,} cells for {num_rows:,} rows"
        if window is None:
            if used + num_tokens > self.budget:
                msg = (
                    f"{need}, {self.budget - used:,} of its {self.budget:,} are left; open it "
                    "with more cells or with overflow='rebuild', or close it and start a new one"
                )
                raise CellsExhausted(msg)
            return
        most = self.ingest.capacity - window.rows.head
        if num_tokens > most:
            msg = f"{need} in one tick, its window holds {most:,}; push fewer rows at a time"
            raise CellsExhausted(msg)
        positions = self.engine.decoder.max_positions
        if window.overflow == "evict" and used + num_tokens > positions:
            msg = (
                f"{need}, and overflow='evict' keeps positions: {positions - used:,} of the "
                f"model's {positions:,} are left; use overflow='rebuild', or start a new session"
            )
            raise CellsExhausted(msg)

    def _render(self, rows: Sequence[Any]) -> list[str]:
        """Each row as the text the model reads, its newline included."""
        if rows and isinstance(rows[0], str):
            for index, row in enumerate(rows):
                if not row.strip():
                    msg = f"row {index}: the text is empty; expected some words"
                    raise RowError(msg)
            return [row if row.endswith("\n") else row + "\n" for row in rows]
        return [line + "\n" for line in self.schema.render(list(rows)).split("\n")[:-1]]

    # What if, and what is kept.

    def fork(
        self,
        name: str,
        *,
        at: Moment | int | None = None,
        cells: int | None = None,
        wait: bool | float = False,
    ) -> Session:
        """Open a session that goes on from here, or from an earlier moment of this one.

        It begins with the same rows, numbered as they are here, and shares their cells: nothing is
        computed again. From then on neither sees what the other is pushed. Prompt, schema and what
        happens when it is full are this session's; flash queries stay here.

        It has every row this session was pushed before; rows that a background stream has queued
        are not waited for.

        Args:
            name: how it is called.
            at: as in `ask`: ``wb.row(500)``, ``wb.row(-10)``, ``wb.version(12)``; None is now. A
                moment inside a tick is a version of its own in the fork.
            cells: its budget in tokens; None takes this session's.
            wait: as in ``engine.open``: wait in line for cells, True or seconds.

        Raises:
            QuestionError: the moment has not come or has left the window. SessionExists,
            CellsExhausted, WorkbenchError: as ``engine.open``; nothing is opened.
        """
        self._check_open()
        then = moment(at)
        if then is None or not self.ingest.has_come(then):
            self._wait_for_pushed()
        origin = self.engine.call(lambda: Origin.of(self.ingest, then))
        spec, columns = fork_of(self.engine, self, name, origin, cells)
        return self.engine.admit(spec, columns, self.prompt, wait)

    def save(self, path: str | Path, *, cells: bool = True) -> Path:
        """Write it into a file, which ``engine.restore`` opens again, also in another process.

        The file has every row this session was pushed before; rows that a background stream has
        queued are not waited for. Flash queries are not in it.

        Args:
            path: the file; one that is there is replaced, once the new one is whole.
            cells: with the K and V that are computed, so that nothing is computed again; without
                them the file is small (a few bytes a token), and restoring computes everything.

        Returns:
            The path.
        """
        self._check_open()
        self._wait_for_pushed()
        return save(self, Path(path), cells=cells)

    def _wait_for_pushed(self) -> None:
        pushed = self.ingest.ticks.last(from_stream=False)
        if pushed is not None:
            # 'drop_oldest': newer rows took its place; or it was taken back.
            with contextlib.suppress(TickDropped, Cancelled):
                pushed.wait()

    def close(self) -> None:
        """Free its cells; questions and rows still queued end with `SessionClosed`."""
        if self.closed:
            return

        def drop() -> None:
            self.engine.board.forget_session(self.ingest)
            self.engine.admission.close(self.ingest)

        try:
            self.engine.call(drop)
        except EngineClosed:
            return
        finally:
            self.engine.forget(self)
            self.end_feeds(errors.SessionClosed(f"session {self.name!r} is closed"))
        self.engine.events.emit(SessionClosed(session=self.name))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"Session({self.name!r}, closed)"
        state = "" if self.state == "open" else f", {self.state}"
        return (
            f"Session({self.name!r}, version {self.version}, {self.rows:,} rows, "
            f"{len(self.ingest.line.token_ids):,} of {self.capacity:,} cells, "
            f"{len(self.flash_queries)} flash queries{state})"
        )
