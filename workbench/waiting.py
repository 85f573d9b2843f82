"""Something that will finish: waited for by a thread, awaited by a coroutine, or run aside."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from numbers import Real
from typing import Any, TypeVar

from workbench.errors import WorkbenchError, warn

T = TypeVar("T")

_engine = threading.local()  # of whose thread this is

WATCH_S = 0.2  # seconds between two looks at what runs aside


def in_engine_thread() -> None:
    """This thread is an engine's: `check_may_wait` refuses here from now on."""
    _engine.here = True


def check_may_wait() -> None:
    """Raise `WorkbenchError` in an engine's own thread, where events and callbacks run.

    What it would wait for may be this very thread's to do, and all sessions would stand still.
    """
    if getattr(_engine, "here", False):
        msg = (
            "this would wait in the engine's own thread, where events and callbacks run, and stop "
            "all its sessions; start it there (ask_start, push) and wait in another thread"
        )
        raise WorkbenchError(msg)


def aside(function: Callable[[], T], watch: Callable[[float], None] | None = None) -> T:
    """Run something that computes in a thread that ends with it, and return its result.

    ``watch`` is called meanwhile, in the caller's thread, with the seconds that have passed. An
    interrupt does not wait for the thread.

    OpenMP keeps a team for every thread that has ever computed. Once the teams outnumber the
    processors, each parallel region sleeps and is woken instead of spinning, which on two cores
    costs a third of a decode step; so a caller's thread should compute nothing itself.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="workbench-aside")
    future = pool.submit(function)
    began = time.monotonic()
    try:
        while not wait([future], timeout=WATCH_S if watch is not None else None).done:
            assert watch is not None
            watch(time.monotonic() - began)
    except BaseException:
        pool.shutdown(wait=False)
        raise
    pool.shutdown()  # the thread has ended before the result is used
    return future.result()


def seconds(timeout: float | None) -> float | None:
    """A timeout as threads take it: None where it is longer than any of them waits.

    Raises:
        WorkbenchError: it is no number of seconds.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or math.isnan(timeout):
        msg = f"timeout={timeout!r}: expected seconds, or None for as long as it takes"
        raise WorkbenchError(msg)
    return None if timeout >= threading.TIMEOUT_MAX else float(timeout)


# An event takes a kilobyte, and ten thousand answers of a flash query are kept: what has ended
# shares one.
_ENDED = threading.Event()
_ENDED.set()


class Completion:
    """A one-shot event with an optional error, for threads and for coroutines alike."""

    __slots__ = ("__weakref__", "_callbacks", "_finished", "_lock", "error")

    def __init__(self) -> None:
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] | None = []
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._finished.is_set()

    def finish(self, error: BaseException | None = None) -> bool:
        """End it, once; returns whether this call was the one that did."""
        with self._lock:
            if self._finished.is_set():
                return False
            self.error = error
            finished, self._finished = self._finished, _ENDED
            finished.set()
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception as error:  # of the engine thread, or whoever ends it: not theirs
                warn(f"a callback of something that ended raised {error!r}")
        return True

    def reopen(self) -> None:
        """Take an end back: it will end again."""
        with self._lock:
            if self._finished is _ENDED:
                self._finished, self._callbacks = threading.Event(), []
            self.error = None

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call once it has ended, from whichever thread ends it; at once if it already has."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback()

    def join(self, timeout: float | None = None) -> None:
        """Block until the end; then raise its error, if any.

        Raises:
            TimeoutError: ``timeout`` seconds have passed; the work itself goes on. WorkbenchError:
                this is the engine's own thread, and it is not done.
        """
        if not self.done:
            check_may_wait()
        if not self._finished.wait(seconds(timeout)):
            msg = f"not done after {timeout} s; it goes on, wait again"
            if hasattr(self, "cancel"):
                msg += " or cancel it"
            raise TimeoutError(msg)
        if self.error is not None:
            raise self.error.with_traceback(None)  # it may be raised again and again

    async def join_async(self) -> None:
        """The same for a coroutine; never blocks the loop."""
        if not self.done:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def set_result() -> None:
                if not future.done():
                    future.set_result(None)

            def wake() -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(set_result)

            self.when_done(wake)
            await future
        if self.error is not None:
            raise self.error.with_traceback(None)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        await self.join_async()
        return self
