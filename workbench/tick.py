"""One arrival of data, and the bounded queue a session's arrivals wait in."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import Any, Literal

from workbench.errors import Cancelled, QueueFull, SessionClosed, TickDropped
from workbench.waiting import Completion, check_may_wait

OnFull = Literal["block", "raise", "drop_oldest"]


class Tick(Completion):
    """The rows of one push on their way into a session; ``wait()`` or ``await`` it.

    Attributes:
        rows: how many rows it carries.
        token_ids: its tokens, as the model reads them.
        version: the session's version once it became visible, else None.
        from_stream: whether a background stream queued it.
        row_starts: where in ``token_ids`` its rows begin; -1 for one that begins inside a token.
    """

    def __init__(
        self,
        token_ids: list[int],
        rows: int,
        *,
        from_stream: bool = False,
        row_starts: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.token_ids = token_ids
        self.rows = rows
        self.from_stream = from_stream
        self.row_starts = row_starts
        self.version: int | None = None
        self.queue: TickQueue | None = None
        self._removed = False
        self._behind: Tick | None = None  # of one that was removed: the one before it
        self.pushed_at = time.perf_counter()

    @property
    def num_tokens(self) -> int:
        """Tokens it carries."""
        return len(self.token_ids)

    def awaited(self) -> Tick | None:
        """What a question has to wait for that is to see these rows; None if nothing is left.

        Of rows that were dropped or taken back it is the ones before them.
        """
        tick: Tick | None = self
        while tick is not None and tick._removed:
            tick = tick._behind
        return None if tick is None or tick.done else tick

    def cancel(self) -> bool:
        """Take its rows back, if none of them has been read yet; returns whether they were.

        It ends with `Cancelled` then, and the session is as if they had never been pushed.
        """
        queue = self.queue  # which it leaves once it is read
        return queue is not None and queue.take_back(self)

    def wait(self, timeout: float | None = None) -> int:
        """Block until its rows are visible to questions; returns the version.

        Raises:
            TimeoutError: not visible after ``timeout`` seconds; it stays queued.
            TickDropped, Cancelled, SessionClosed, SessionFaulted, EngineClosed: why it will not be.
        """
        self.join(timeout)
        assert self.version is not None
        return self.version

    def __await__(self) -> Generator[Any, None, int]:
        return self._version().__await__()

    async def _version(self) -> int:
        await self.join_async()
        assert self.version is not None
        return self.version

    def __repr__(self) -> str:
        state = f"version {self.version}" if self.version is not None else "queued"
        return f"Tick({self.rows} rows, {self.num_tokens} tokens, {state})"


class TickQueue:
    """Ticks in order of arrival; producers are any threads, the one consumer is the engine's."""

    def __init__(self, name: str, max_rows: int, on_full: OnFull) -> None:
        self.name = name
        self.max_rows = max_rows
        self.on_full = on_full
        self.rows = 0
        self.tokens = 0  # not yet consumed
        self.accepted_tokens = 0  # ever, less what was dropped: what the session will have to hold
        self.dropped_rows = 0
        self._ticks: deque[Tick] = deque()
        self._offset = 0  # tokens of the first tick that are already consumed
        self._held = 0  # tokens after those that the engine is at work on
        self._changed = threading.Condition()
        self.blocked = 0  # producers that wait for room
        self.after_take_back: Callable[[], None] | None = None  # who waited for it goes on
        self._closed: BaseException | None = None  # for good
        self._fault: BaseException | None = None  # until mended

    def put(self, tick: Tick) -> list[Tick]:
        """Queue a tick, or do what the session was opened to do when there is no room.

        A tick of more rows than the queue holds is let into an empty queue: nothing is lost.

        Returns:
            What was dropped to make room (nothing unless ``on_full`` is ``"drop_oldest"``), for
            the caller to end with `dropped`: once it holds no lock that whoever waits may want.
        """
        dropped: list[Tick] = []
        with self._changed:
            while not self._refusal and self._ticks and self.rows + tick.rows > self.max_rows:
                if self.on_full == "raise":
                    msg = (
                        f"session {self.name!r} has {self.rows} of at most {self.max_rows} rows "
                        f"queued and {tick.rows} more came; push them again later, or open the "
                        "session with on_full='block' or a larger max_pending"
                    )
                    raise QueueFull(msg)
                if self.on_full == "drop_oldest":
                    first = self._begun()
                    if len(self._ticks) <= first:
                        break
                    dropped.append(self._remove(first))
                    self.dropped_rows += dropped[-1].rows
                else:
                    check_may_wait()
                    self.blocked += 1
                    try:
                        self._changed.wait()
                    finally:
                        self.blocked -= 1
            if self._refusal:
                raise self._refusal.with_traceback(None)
            self._ticks.append(tick)
            tick.queue = self
            self.rows += tick.rows
            self.tokens += tick.num_tokens
            self.accepted_tokens += tick.num_tokens
        return dropped

    def dropped(self, ticks: Iterable[Tick]) -> None:
        """End what `put` has dropped."""
        for old in ticks:
            msg = f"{old.rows} rows were dropped: the queue of {self.name!r} was full"
            old.finish(TickDropped(msg))

    def take_back(self, tick: Tick) -> bool:
        """Remove a tick of which nothing has been read; returns whether that was so."""
        with self._changed:
            begun = self._begun()
            places = [n for n, queued in enumerate(self._ticks) if queued is tick and n >= begun]
            for place in places:
                self._remove(place)
            self._changed.notify_all()
        if not places:
            return False
        rows = f"its {tick.rows:,} rows were" if tick.rows != 1 else "its row was"
        tick.finish(Cancelled(f"{rows} taken back before being read"))
        if self.after_take_back is not None:
            self.after_take_back()
        return True

    def _remove(self, place: int) -> Tick:
        tick = self._ticks[place]
        del self._ticks[place]
        tick._behind = self._ticks[place - 1] if place else None
        tick._removed, tick.queue = True, None
        self.rows -= tick.rows
        self.tokens -= tick.num_tokens
        self.accepted_tokens -= tick.num_tokens
        return tick

    def _begun(self) -> int:
        """How many of the first ticks must stay: those that are in the cache in part, or on their
        way there."""
        begun, tokens = 0, self._offset + self._held
        while tokens > 0 and begun < len(self._ticks):
            tokens -= self._ticks[begun].num_tokens
            begun += 1
        return begun

    @property
    def _refusal(self) -> BaseException | None:
        return self._closed or self._fault

    def fault(self, error: BaseException) -> None:
        """Ingestion failed: waiters and producers are told, what is queued stays queued."""
        with self._changed:
            self._fault = error
            self._held = 0
            self._changed.notify_all()
            left = list(self._ticks)
        for tick in left:
            tick.finish(error)

    def mend(self) -> None:
        """Take ticks again after a fault; those that were queued can be waited for anew."""
        with self._changed:
            self._fault = None
            for tick in self._ticks:
                tick.reopen()

    def hold(self, num_tokens: int) -> list[int]:
        """The next ``num_tokens`` tokens, left in the queue; `put` does not drop them before
        `consume` has taken them, or others are held instead."""
        with self._changed:
            front = self._front(num_tokens)
            self._held = len(front)
        return front

    def _front(self, num_tokens: int) -> list[int]:
        out: list[int] = []
        offset = self._offset
        for tick in self._ticks:
            out.extend(tick.token_ids[offset : offset + num_tokens - len(out)])
            offset = 0
            if len(out) == num_tokens:
                break
        return out

    def consume(self, num_tokens: int, whole: Callable[[Tick], None]) -> None:
        """Take ``num_tokens`` tokens off; ``whole`` is called with each tick that is consumed by
        that, before `last` and `waiting` leave it out."""
        with self._changed:
            self._held = 0
            self.tokens -= num_tokens
            self._offset += num_tokens
            while self._ticks and self._offset >= self._ticks[0].num_tokens:
                tick = self._ticks[0]
                whole(tick)
                self._ticks.popleft().queue = None
                self._offset -= tick.num_tokens
                self.rows -= tick.rows
            self._changed.notify_all()

    @property
    def first_tokens(self) -> int:
        """Tokens of the first tick, those of it that are consumed too; 0 if none is queued."""
        with self._changed:
            return self._ticks[0].num_tokens if self._ticks else 0

    def tokens_until(self, ticks: Collection[Tick]) -> int:
        """Tokens still queued up to the last of some ticks; 0 if none of them is."""
        total = until = 0
        with self._changed:
            for tick in self._ticks:
                total += tick.num_tokens
                if tick in ticks:
                    until = total
            return max(0, until - self._offset) if until else 0

    def last(self, *, from_stream: bool) -> Tick | None:
        """The newest tick still queued; with ``from_stream=False`` the newest that was pushed."""
        with self._changed:
            for tick in reversed(self._ticks):
                if from_stream or not tick.from_stream:
                    return tick
        return None

    def waiting(self) -> list[Tick]:
        """All ticks still queued."""
        with self._changed:
            return list(self._ticks)

    def close(self, reason: BaseException | None = None) -> None:
        """Refuse further ticks, wake blocked producers, end all that wait with ``reason``."""
        error = reason or SessionClosed(f"session {self.name!r} is closed; open it again to push")
        with self._changed:
            if self._closed:
                return
            self._closed = error
            left, self._ticks = list(self._ticks), deque()
            self.rows = self.tokens = self._offset = self._held = 0
            self._changed.notify_all()
        for tick in left:
            tick.queue = None
            tick.finish(error)
