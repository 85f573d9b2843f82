"""A line that says what a long start is busy with, shown only if it takes more than a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from workbench.errors import Cancelled
from workbench.waiting import aside

T = TypeVar("T")

MOMENT_S = 3.0  # what takes no longer shows nothing


class Stages:
    """Runs something in stages aside, while the caller's thread shows which one it is at.

    An interrupt returns to the caller at once; the work ends before its next stage.

    Args:
        name: what is being started.
        show: whether to show anything.
    """

    def __init__(self, name: str, *, show: bool = True) -> None:
        self.name = name
        self._show = show
        self._stage = "starting"
        self._given_up = threading.Event()
        self._bar: Any = None

    def at(self, stage: str) -> None:
        """The work has got to this stage; its own thread says so.

        Raises:
            Cancelled: nobody waits for it any more.
        """
        if self._given_up.is_set():
            msg = f"{self.name}: given up before {stage}"
            raise Cancelled(msg)
        self._stage = stage

    def run(self, work: Callable[[Stages], T]) -> T:
        """What ``work`` returns; it is given these stages to report to."""
        try:
            return aside(lambda: work(self), watch=self._draw)
        except BaseException:
            self._given_up.set()
            raise
        finally:
            if self._bar is not None:
                self._bar.close()

    def _draw(self, waited_s: float) -> None:
        if not self._show or waited_s < MOMENT_S:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(bar_format="{desc}", leave=False)
        words = f"{self.name}: {self._stage} ({waited_s:.0f} s)"
        if self._bar.desc != words:
            self._bar.set_description_str(words)
