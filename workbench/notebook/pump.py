"""The one thread that writes to a dashboard's widgets, a few times a second."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any

from workbench.errors import warn

Update = Callable[[], Any]


class Pump:
    """Runs updates in a thread of its own: ``every`` at each beat, and the newest per key.

    Widgets are not made for two writers, and a browser cannot show a thousand changes a second:
    whoever has news puts a function here, and of those under one key only the newest runs.

    Args:
        every: runs at each beat, before the others.
        hz: beats per second.
    """

    def __init__(self, every: Update | None = None, *, hz: float = 6.0) -> None:
        """Be ready; `start` begins."""
        self._every = every
        self._pause_s = 1 / hz
        self._lock = threading.Lock()
        self._todo: dict[str, Update] = {}
        self._halt = threading.Event()
        self._reported: set[str] = set()
        # A daemon: a kernel that shuts down does not wait for it.
        self._thread = threading.Thread(target=self._run, name="workbench-pump", daemon=True)

    def start(self) -> None:
        """Begin; until then nothing runs."""
        atexit.register(self.stop)
        self._thread.start()

    def put(self, key: str, update: Update) -> None:
        """Run it at the next beat, unless a newer one of this key comes first. Any thread."""
        with self._lock:
            self._todo[key] = update

    def beat(self) -> None:
        """What a beat does; the thread calls it, and tests do."""
        with self._lock:
            todo, self._todo = self._todo, {}
        if self._every is not None:
            self._call("every", self._every)
        for key, update in todo.items():
            self._call(key, update)

    def stop(self) -> None:
        """End it after the beat under way; safe to call twice, and from the thread itself."""
        atexit.unregister(self.stop)
        self._halt.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    @property
    def stopped(self) -> bool:
        """Whether it has been told to end."""
        return self._halt.is_set()

    def _run(self) -> None:
        while not self._halt.wait(self._pause_s):
            self.beat()

    def _call(self, key: str, update: Update) -> None:
        try:
            update()
        except Exception as error:
            # Once per key and kind: the same fault would come again at every beat.
            fault = f"{key}: {type(error).__name__}"
            if fault not in self._reported:
                self._reported.add(fault)
                warn(f"a live display could not be updated ({key}: {error!r}); it goes on")
