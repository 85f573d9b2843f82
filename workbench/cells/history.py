"""Where every row and every version of a line ended, so that any of them can be asked about."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

UNKNOWN = -1  # a row that ends inside a token


class Place(NamedTuple):
    """The end of a row or version: in everything ever read, with what had come by then."""

    place: int
    version: int
    rows: int


class History:
    """Ends of rows and versions, as places in everything the line ever read. Integers only.

    Args:
        head: tokens before the first row.
    """

    def __init__(self, head: int) -> None:
        self._row_ends = array("q", [head])  # after no row, after the first, ...
        self._version_ends = array("q", [head])
        self._version_rows = array("q", [0])
        self._gone_rows = self._gone_versions = 0  # how many entries have left

    @property
    def rows(self) -> int:
        """Rows that ever came."""
        return self._gone_rows + len(self._row_ends) - 1

    @property
    def version(self) -> int:
        """Versions that ever were."""
        return self._gone_versions + len(self._version_ends) - 1

    def add(self, num_tokens: int, num_rows: int, starts: Sequence[int]) -> None:
        """A tick is complete: its tokens and rows, and where in it each row begins.

        Where ``starts`` does not have every row, only the last one's end is known.
        """
        begin = self._version_ends[-1]
        known = list(starts[1:]) if len(starts) == num_rows else [UNKNOWN] * (num_rows - 1)
        self._row_ends.extend(UNKNOWN if s == UNKNOWN else begin + s for s in known)
        self._row_ends.append(begin + num_tokens)
        self._version_ends.append(begin + num_tokens)
        self._version_rows.append(self.rows)

    def row(self, number: int) -> Place | None:
        """After the first ``number`` rows; None if it left, has not come, or ends in a token."""
        index = number - self._gone_rows
        if not self.has_row(number) or self._row_ends[index] == UNKNOWN:
            return None
        version = self._gone_versions + bisect_right(self._version_rows, number) - 1
        return Place(self._row_ends[index], version, number)

    def has_row(self, number: int) -> bool:
        """Whether this many rows have come, and the last of them has not left."""
        return 0 <= number - self._gone_rows < len(self._row_ends)

    def at_version(self, number: int) -> Place | None:
        """As of version ``number``; None if it has left or not come."""
        index = number - self._gone_versions
        if not 0 <= index < len(self._version_ends):
            return None
        return Place(self._version_ends[index], number, self._version_rows[index])

    @property
    def arrays(self) -> dict[str, array[int]]:
        """What it knows, for `of`; with ``gone`` that is all."""
        return {
            "row_ends": self._row_ends, "version_ends": self._version_ends,
            "version_rows": self._version_rows,
        }  # fmt: skip

    @property
    def gone(self) -> tuple[int, int]:
        """How many rows and versions it has forgotten."""
        return self._gone_rows, self._gone_versions

    @classmethod
    def of(cls, arrays: Mapping[str, array[int]], gone_rows: int, gone_versions: int) -> History:
        """One that knows what another did; both then go their own way."""
        made = cls(0)
        made._row_ends = arrays["row_ends"][:]
        made._version_ends = arrays["version_ends"][:]
        made._version_rows = arrays["version_rows"][:]
        made._gone_rows, made._gone_versions = gone_rows, gone_versions
        return made

    def until(self, end: Place) -> History:
        """A copy that ends there; rows of a version that was not complete are one of their own."""
        copy = History.of(self.arrays, *self.gone)
        rows, versions = end.rows - self._gone_rows, end.version - self._gone_versions
        del copy._row_ends[rows + 1 :]
        del copy._version_ends[versions + 1 :], copy._version_rows[versions + 1 :]
        if versions < 0 and rows == 0:  # the version that left last ended there
            copy._gone_versions = end.version
        if not copy._version_ends or copy._version_ends[-1] < end.place:
            copy._version_ends.append(end.place)
            copy._version_rows.append(end.rows)
        return copy

    def leave(self, place: int) -> None:
        """What ended at ``place`` or before will not be asked for again; memory stays bounded."""
        versions = min(bisect_right(self._version_ends, place), len(self._version_ends) - 1)
        if versions * 2 < len(self._version_ends):
            return  # not worth moving the rest yet
        rows = self._version_rows[versions - 1] - self._gone_rows
        del self._version_ends[:versions], self._version_rows[:versions]
        del self._row_ends[:rows]
        self._gone_versions += versions
        self._gone_rows += rows
