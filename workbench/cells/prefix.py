"""Which lines begin alike, by content: equal beginnings are computed once and held once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from workbench.cells.line import STRETCH, Line


class Match(NamedTuple):
    """``line`` has computed everything up to ``end``, and up to there its tokens are the same."""

    line: Line
    end: int


class PrefixIndex:
    """All lines whose cells may be shared, by the links of their hash chains.

    Causal attention makes a token's K and V a function of the tokens before it, so equal beginnings
    have equal cells. A line that a window has cut is not here: its keys remember rows that left.
    """

    def __init__(self) -> None:
        # Insertion-ordered sets: the line that came first is tried first.
        self._lines: dict[bytes, dict[Line, None]] = {b"": {}}

    def add(self, line: Line) -> None:
        """Make a line's computed tokens known."""
        self._lines[b""][line] = None
        for digest in line.digests:
            self._lines.setdefault(digest, {})[line] = None
        self.note(line)

    def note(self, line: Line) -> None:
        """A known line has computed more; others are ignored."""
        if line in self._lines[b""]:
            for digest in line.hash_on():
                self._lines.setdefault(digest, {})[line] = None

    def remove(self, line: Line) -> None:
        """Forget a line, before its cells go; unknown ones are fine."""
        self._lines[b""].pop(line, None)
        for digest in line.digests:
            lines = self._lines.get(digest)
            if lines is not None:
                lines.pop(line, None)
                if not lines:
                    del self._lines[digest]

    def match(self, line: Line, upcoming: Sequence[int]) -> Match | None:
        """The line that has computed most of ``upcoming`` after just what ``line`` has computed.

        Args:
            line: its computed tokens are the beginning that must be equal; known or not.
            upcoming: the tokens it wants next.

        Returns:
            The other line and where equality ends, in tokens from the start; None if nobody has
            even the first of them.
        """
        start = line.computed
        line.hash_on()
        whole = start // STRETCH
        tail = line.token_ids[whole * STRETCH : start]
        wanted = array("i", upcoming)
        best: Match | None = None
        for other in self._lines.get(line.digest(whole), ()):
            if other is line or other.computed <= start:
                continue
            if other.token_ids[whole * STRETCH : start] != tail:
                continue
            end = start + _common(other.token_ids[start : other.computed], wanted)
            if end > (best.end if best else start):
                best = Match(other, end)
                if end == start + len(wanted):
                    break
        return best

    def __contains__(self, line: Line) -> bool:
        return line in self._lines[b""]

    def __len__(self) -> int:
        return len(self._lines[b""])


def _common(a: array[int], b: array[int]) -> int:
    """Length of the longest common beginning."""
    num = min(len(a), len(b))
    if a[:num] == b[:num]:
        return num
    return next(i for i in range(num) if a[i] != b[i])
