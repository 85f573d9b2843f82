"""A moment of a stream that is asked about: what has been seen, and how to speak of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.streams.readings import limit_mark
from workbench.streams.render import Row, count_text, price_text
from workbench.tape import wording
from workbench.tape.generators import Stream

KS = (3, 5, 10, 20, 2, 4, 6, 8, 15)  # how many rows questions look back, and how often
K_SHARES = (0.26, 0.26, 0.2, 0.1, 0.08, 0.03, 0.03, 0.02, 0.02)
EXACT = {"v", "hr", "sys", "dia", "spo2", "temp"}  # whole numbers are printed whole


@dataclass(frozen=True)
class Asked:
    """One question, asked after ``rows`` rows, its true answer, and its choices if it is closed.

    ``k`` is how many rows back it looks (0: it does not), ``column`` what about ("": nothing).
    """

    family: str
    text: str
    answer: str
    rows: int
    choices: tuple[str, ...] = ()
    k: int = 0
    column: str = ""


class Moment:
    """A stream as of a number of rows, and how to draw a question about it."""

    def __init__(
        self,
        rng: np.random.Generator,
        stream: Stream,
        rows: int,
        max_k: int,
        k: int | None,
        plain: bool = False,
    ) -> None:
        """``k`` fixes how far questions look back, else they draw it, up to ``max_k``; ``plain``
        questions compare in one direction only (`comparing`)."""
        self.plain = plain
        self.rng, self.stream, self.rows = rng, stream, rows
        self.schema = stream.schema
        self.max_k, self.k = max_k, k
        seen = {
            name: own[: bisect_left(own, rows)]
            for name, own in stream.members.items()
            if own[0] < rows
        }
        self.members: dict[str, list[int]] = seen
        self.several = len(seen) > 1
        self.named = "" not in seen

    def pick(self, choices: Sequence[str]) -> str:
        """One of ``choices``."""
        return choices[int(self.rng.integers(len(choices)))]

    def whose(self) -> tuple[str, list[Row]]:
        """Somebody, and their rows so far; "" where the question need not say whose."""
        name = self.pick(list(self.members))
        rows = [self.stream.rows[at] for at in self.members[name]]
        return ("" if not self.several and self.rng.random() < 0.5 else name), rows

    def column(self) -> str:
        """A column of numbers."""
        return self.pick(self.stream.numbers()) if self.schema != "iot" else "value"

    def word(self, column: str, name: str = "") -> str:
        """How a question calls ``column``, and whose it is."""
        word = self.pick(wording.COLUMNS[self.schema].get(column, (column,)))
        if not name:
            return word
        return self.pick(("{x} of {s}", "{x} of {s}", "{s} {x}", "{x} for {s}")).format(
            x=word, s=name
        )

    def look_back(self, most: int) -> int:
        """How many rows to look back, fewer than ``most``; 0 where there are too few."""
        if self.k is not None:
            return self.k if self.k < most else 0
        allowed = [
            (k, p) for k, p in zip(KS, K_SHARES, strict=True) if k < most and k <= self.max_k
        ]
        if not allowed:
            return 0
        shares = np.array([p for _, p in allowed])
        return int(allowed[self.rng.choice(len(allowed), p=shares / shares.sum())][0])

    def rows_word(self) -> str:
        """What this stream's rows are called."""
        return self.pick(wording.ROWS[self.schema])

    def asked(self, family: str, text: str, answer: str, *rest: object, **kept: object) -> Asked:
        """The question, its first letter in upper case where the wording begins with a slot."""
        if text[0].islower() and text.endswith("?") and " " in text and self.rng.random() < 0.7:
            text = text[0].upper() + text[1:]
        return Asked(family, text, answer, self.rows, *rest, **kept)  # type: ignore[arg-type]


def shown(row: Row, column: str, schema: str) -> str:
    """The text that the renderer prints for ``row[column]``."""
    value = row[column]
    if isinstance(value, str):
        return value
    if column == "time":
        return value.strftime("%H:%M:%S")
    return count_text(value) if column in EXACT or schema == "rows" else price_text(value)


def mark(schema: str, row: Row) -> str:
    """The first word of a row that says what kind it is: up, down, =; ok, low, high; a level."""
    if schema == "ohlcv":
        return "=" if row["o"] == row["c"] else "up" if row["c"] > row["o"] else "down"
    if schema == "iot":
        value = "?" if row["value"] is None else price_text(row["value"])
        return limit_mark(value, price_text(row["low"]), price_text(row["high"]))
    return str(row["level"]) if schema == "event" else ""


def value_of(row: Row, column: str, schema: str) -> float | None:
    """The number that the renderer prints for ``row[column]``; None for a fault."""
    value = row[column]
    return None if value is None else float(shown(row, column, schema))
