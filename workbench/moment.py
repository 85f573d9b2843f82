"""An earlier moment of a session, as people name it: after so many rows, or as of a version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral

from workbench.errors import QuestionError

_WRITTEN = re.compile(r"(v?)([+-]?\d+)")


@dataclass(frozen=True)
class Moment:
    """A moment to ask as of; made by `row` and `version`.

    Attributes:
        unit: "row" or "version".
        number: how many of them had come; below zero, how many before the newest.
    """

    unit: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Moment:
        """``"500"`` is `row` 500, ``"-10"`` ten rows ago, ``"v12"`` is `version` 12.

        Raises:
            QuestionError: it is none of these.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            msg = f"{text!r} is no moment: expected a row such as 500 or -10, or a version as v12"
            raise QuestionError(msg)
        return cls("version" if found[1] else "row", int(found[2]))

    def __str__(self) -> str:
        if self.number < 0:
            return f"{-self.number:,} {self.unit}{'s' * (self.number != -1)} ago"
        return f"{self.unit} {self.number:,}"


def row(number: int) -> Moment:
    """As of after the first ``number`` rows; ``row(-10)``: as it was ten rows ago."""
    return Moment("row", _whole(number, "row"))


def version(number: int) -> Moment:
    """As of version ``number``; ``version(-1)``: one version ago."""
    return Moment("version", _whole(number, "version"))


def moment(at: Moment | int | None) -> Moment | None:
    """What ``at=`` means; a plain number counts rows.

    Raises:
        QuestionError: it is neither a moment nor a whole number.
    """
    return at if at is None or isinstance(at, Moment) else row(at)


def _whole(number: int, unit: str) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral):
        msg = f"at={number!r}: expected a whole number of {unit}s, wb.row(n) or wb.version(n)"
        raise QuestionError(msg)
    return int(number)
