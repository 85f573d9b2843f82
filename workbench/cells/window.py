"""Where the rows of a window begin, so that whole rows leave it. Integers only."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence


class WindowRows:
    """The complete rows of a line whose first ``head`` tokens stay and whose oldest rows leave.

    Rows are kept by where they begin in everything the session ever read, which does not change
    when older ones leave; ``index`` turns that into a place in the line's log.

    Attributes:
        head: tokens before the first row.
        left: tokens of rows that have left.
        end: where the last complete row ends, in everything ever read.
    """

    def __init__(self, head: int) -> None:
        self.head = head
        self.left = 0
        self.end = head
        self._starts: deque[int] = deque()
        self._numbers: deque[int] = deque()  # of the rows that begin there
        self._read = 0  # rows, those that begin inside a token too
        self._gone = 0  # of these

    def __len__(self) -> int:
        return self._read - self._gone

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows in the window, the head's not counted."""
        return self.end - self.left - self.head

    def add(self, num_tokens: int, starts: Iterable[int]) -> None:
        """A tick is complete: its tokens, and where in it rows begin (-1 inside a token)."""
        for start in starts:
            if start >= 0:
                self._starts.append(self.end + start)
                self._numbers.append(self._read)
            self._read += 1
        self.end += num_tokens

    @property
    def arrays(self) -> dict[str, Sequence[int]]:
        """Where its rows begin and which they are, for `of`; with ``counts`` that is all."""
        return {"starts": self._starts, "numbers": self._numbers}

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """Tokens of the head, that have left, where it ends; rows ever read, and gone."""
        return self.head, self.left, self.end, self._read, self._gone

    @classmethod
    def of(
        cls, arrays: Mapping[str, Sequence[int]], head: int, left: int, end: int, read: int,
        gone: int,
    ) -> WindowRows:  # fmt: skip
        """One that is as another was; both then go their own way."""
        made = cls(head)
        made.left, made.end, made._read, made._gone = left, end, read, gone
        made._starts.extend(arrays["starts"])
        made._numbers.extend(arrays["numbers"])
        return made

    def until(self, place: int, rows: int) -> WindowRows:
        """A copy that ends at ``place``, where the first ``rows`` rows ever read end."""
        kept = bisect_left(self._starts, place)
        arrays = {name: list(values)[:kept] for name, values in self.arrays.items()}
        return WindowRows.of(arrays, self.head, self.left, place, rows, self._gone)

    def index(self, place: int) -> int:
        """Where in the line's log a row that begins at ``place`` is."""
        return place - self.left

    def first_of_last(self, num_tokens: int) -> int:
        """Where the first of the latest rows begins that together have at most ``num_tokens``."""
        at = bisect_left(self._starts, self.end - num_tokens)
        return self._starts[at] if at < len(self._starts) else self.end

    def first_after(self, num_tokens: int) -> int:
        """Where the first row begins that leaves at least ``num_tokens`` of rows before it."""
        at = bisect_left(self._starts, self.left + self.head + num_tokens)
        return self._starts[at] if at < len(self._starts) else self.end

    def leave(self, place: int) -> int:
        """Rows that begin before ``place`` have left; returns their tokens."""
        gone = place - self.left - self.head
        while self._starts and self._starts[0] < place:
            self._starts.popleft()
            self._numbers.popleft()
        if gone:
            self._gone = self._numbers[0] if self._numbers else self._read
        self.left += gone
        return gone
