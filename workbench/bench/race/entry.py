"""One engine of a race: its process while it has one, and what it has come to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from workbench.bench.race.course import Course, failure
from workbench.bench.race.plan import Process
from workbench.bench.race.process import PeerFailed, PeerProcess

T = TypeVar("T")


class Entry:
    """A process of the plan in one part of a race; what it measures goes into ``result``.

    Attributes:
        peer: its process; None before it has started, and once it has failed or is closed.
        result: with ``failed``: None, or why it did not finish.
    """

    def __init__(self, course: Course, process: Process, result: dict[str, Any]) -> None:
        self.course, self.process, self.result = course, process, result
        self.peer: PeerProcess | None = None
        result["failed"] = None

    @property
    def name(self) -> str:
        """Of the process."""
        return self.process.name

    def open(self, **sizes: int) -> None:
        """Start it, and have it load the model; ``sizes`` as `Course.open` takes them."""
        with self.may_fail():
            self.course.say(f"{self.name}: starting")
            self.peer = self.course.start(self.process)
            self.result["opened"] = self.course.open(self.process, self.peer, **sizes)

    @contextmanager
    def may_fail(self) -> Iterator[None]:
        """What fails within ends this peer, with the reason, and nobody else."""
        try:
            yield
        except PeerFailed as error:
            self.result["failed"] = failure(self.process, error)
            self.close()

    def close(self) -> None:
        """End its process."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.close()


def in_turn(everyone: Sequence[T], turn: int) -> list[T]:
    """All of them, another one first each time."""
    first = turn % max(1, len(everyone))
    return [*everyone[first:], *everyone[:first]]
