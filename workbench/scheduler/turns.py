"""Deficit round robin (Shreedhar, Varghese 1995): sessions take turns of so many tokens each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Turns:
    """A ring of items; each may take ``quantum`` tokens a turn.

    A step that ends inside a turn leaves the rest of it for the next step; an item with nothing to
    take has no turn. What ``share`` decides counts only once ``ran`` is called.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self._ring: deque[int] = deque()
        self._left = quantum  # of the first one's turn
        self._after: tuple[deque[int], int] | None = None  # the two as the latest share leaves them

    def add(self, item: int) -> None:
        """A new item, last in the ring."""
        self._ring.append(item)
        self._after = None

    def remove(self, item: int) -> None:
        """Forget an item; unknown ones are fine."""
        if item in self._ring:
            if self._ring[0] == item:
                self._left = self.quantum
            self._ring.remove(item)
            self._after = None

    def share(self, room: int, backlog: Callable[[int], int]) -> dict[int, int]:
        """Divide ``room`` tokens.

        Args:
            room: tokens to give out.
            backlog: how many an item has to take, now.

        Returns:
            Tokens by item in order of their turns, those without any left out.
        """
        ring, left = self._ring.copy(), self._left
        wanted = {item: tokens for item in ring if (tokens := backlog(item)) > 0}
        given: dict[int, int] = {}
        while room > 0 and wanted:
            item = ring[0]
            tokens = min(left, wanted.get(item, 0), room)
            if tokens:
                given[item] = given.get(item, 0) + tokens
                wanted[item] -= tokens
                left -= tokens
                room -= tokens
            if not wanted.get(item):
                wanted.pop(item, None)
                left = 0
            if not left:
                ring.rotate(-1)
                left = self.quantum
        self._after = (ring, left)
        return given

    def ran(self) -> None:
        """What was shared last has run: the ring stands where that left it."""
        if self._after is not None:
            self._ring, self._left = self._after
            self._after = None
