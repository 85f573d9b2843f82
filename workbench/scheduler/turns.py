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
        self._stop: tuple[int, int] | None = None  # where the latest share ends: whose turn, left

    def add(self, item: int) -> None:
        """A new item, last in the ring."""
        self._ring.append(item)

    def remove(self, item: int) -> None:
        """Forget an item; unknown ones are fine."""
        if item not in self._ring:
            return
        if self._stop is not None and self._stop[0] == item:
            self._stop = self._after(item)
        if self._ring[0] == item:
            self._left = self.quantum
        self._ring.remove(item)
        if not self._ring:
            self._stop = None

    def share(self, room: int, backlog: Callable[[int], int]) -> list[tuple[int, int]]:
        """Divide ``room`` tokens.

        Args:
            room: tokens to give out.
            backlog: how many an item has to take, now.

        Returns:
            Turns in order, as items and tokens; an item may have several.
        """
        wanted = {item: tokens for item in self._ring if (tokens := backlog(item)) > 0}
        if self._ring and self._ring[0] not in wanted:
            self._left = self.quantum  # who has nothing to take saves nothing up
        waiting, left = deque(wanted), self._left
        turns: list[tuple[int, int]] = []
        item = 0
        while room > 0 and waiting:
            item = waiting.popleft()
            left = left or self.quantum
            tokens = min(left, wanted[item], room)
            turns.append((item, tokens))
            wanted[item] -= tokens
            room -= tokens
            left = left - tokens if wanted[item] else 0
            if wanted[item]:
                waiting.append(item)  # its turn is over, or else the room is
        self._stop = ((item, left) if left else self._after(item)) if turns else None
        return turns

    def ran(self) -> None:
        """What was shared last has run: the ring stands where that stopped."""
        if self._stop is not None:
            first, self._left = self._stop
            self._ring.rotate(-self._ring.index(first))
            self._stop = None

    def _after(self, item: int) -> tuple[int, int]:
        """The start of the turn after an item's."""
        return self._ring[(self._ring.index(item) + 1) % len(self._ring)], self.quantum
