"""What every schema does: the first rows fix the columns, a row that does not fit says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, ClassVar

from workbench.errors import RowError
from workbench.streams.texts import read_number, word_text

Row = dict[str, Any]

TIME_NAMES = frozenset({"time", "date", "datetime", "timestamp", "ts", "t"})
NOT_TIME = "T"  # as often a temperature, which nobody may drop unsaid
LARGEST = 1e300  # beyond it, rounding to five digits could overflow


class Schema:
    """How one session's rows read; the first rows fix the columns, later rows must have the same.

    ``columns`` is None until then. ``render`` keeps no other state, so equal rows read equally.
    """

    name: str

    def __init__(self) -> None:
        """A schema that has seen no row."""
        self.columns: tuple[str, ...] | None = None

    def render(self, rows: list[Row]) -> str:
        """One line per row, each ending in a newline; raises `RowError` before anything changes."""
        columns = self.columns
        lines = []
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise RowError(
                    f"row {index}: expected a dict of column to value, got {type(row).__name__}; "
                    "push a dict, a list of dicts or a frame"
                )
            named = self._named(index, row)
            if columns is None:
                columns = self._order(index, named)
            _same_columns(index, columns, named)
            lines.append(self._line(index, columns, named) + "\n")
        self.columns = columns
        return "".join(lines)

    def parse(self, text: str) -> list[Row]:
        """The rows that ``text`` shows, numbers as printed; raises `RowError` on other text."""
        if text and not text.endswith("\n"):
            raise RowError(
                f"expected every line to end in a newline, got {text[-20:]!r} at the end; "
                "pass text that render() gave"
            )
        return [self._row(index, line) for index, line in enumerate(text.split("\n")[:-1])]

    def _named(self, index: int, row: Mapping[str, Any]) -> Row:
        raise NotImplementedError

    def _order(self, index: int, named: Row) -> tuple[str, ...]:
        raise NotImplementedError

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        raise NotImplementedError

    def _row(self, index: int, line: str) -> Row:
        raise NotImplementedError


class Known(Schema):
    """A schema of known columns, each under several names, in any case.

    ``names`` maps a lower-case name to the column it means; ``needed`` columns must be there;
    ``order`` is how columns follow one another; ``example`` is a row as people write it.
    """

    names: ClassVar[dict[str, str]]
    needed: ClassVar[tuple[str, ...]]
    order: ClassVar[tuple[str, ...]]
    spoken: ClassVar[str]
    drops_time = False

    def _named(self, index: int, row: Mapping[str, Any]) -> Row:
        named: Row = {}
        for column, value in row.items():
            lowered = column.lower() if isinstance(column, str) else column
            short = self.names.get(lowered)
            if short is None and self.drops_time and is_time(column):
                continue
            if short is None:
                raise RowError(
                    f"row {index}: expected the columns of schema {self.name!r} ({self.spoken}), "
                    f"got {column!r}; drop it, or open the session with schema='rows'"
                )
            if short in named:
                raise RowError(
                    f"row {index}: expected one column for {short!r}, got {column!r} as well; "
                    "keep one of them"
                )
            named[short] = value
        return named

    def _order(self, index: int, named: Row) -> tuple[str, ...]:
        missing = [column for column in self.needed if column not in named]
        if missing or not named:
            *most, last = self.needed or self.order
            raise RowError(
                f"row {index}: expected columns {', '.join(most)} and {last}, got "
                f"{', '.join(named) or 'none'}; add {', '.join(missing or self.order)}, or open "
                "the session with schema='rows'"
            )
        return tuple(column for column in self.order if column in named)


def is_time(column: Any) -> bool:
    """Whether a column of this name says when something was."""
    return isinstance(column, str) and column.lower() in TIME_NAMES and column != NOT_TIME


def name_word(index: int, column: str, value: Any, example: str) -> str:
    """A name as one word; whole numbers are names too where ids are."""
    if isinstance(value, Integral) and not isinstance(value, bool) and column == "id":
        value = str(int(value))
    if not isinstance(value, str) or not value:
        raise wrong(index, column, f"a name such as {example!r}", value)
    return word_text(value)


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN of whatever type (which is not itself) or pandas' NaT."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError, ArithmeticError):  # pandas' NA, an array, a signalling NaN
        return False


def number(index: int, column: str, value: Any) -> Any:
    """``value`` if it is a finite number; numpy's scalars register as such, its bool does not."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise wrong(index, column, "a number", value)
    try:
        within = math.isfinite(value) and (
            isinstance(value, Integral) or abs(float(value)) < LARGEST
        )
    except (OverflowError, ValueError):  # a whole number beyond any float; a signalling NaN
        within = False
    if not within:
        raise wrong(index, column, "a finite number within 1e300", value)
    return value


def wrong(index: int, column: str, expected: str, value: Any) -> RowError:
    """The error of a value that does not fit its column."""
    try:
        shown = f"{value!r:.60}"
    except ValueError:  # a whole number of more digits than Python prints
        shown = "one too long to print"
    kind = "" if shown in {"None", "nan", "NaT", "inf", "-inf"} else f" ({type(value).__name__})"
    do = "fill or drop this row"
    if isinstance(value, str) and "number" in expected and read_number(value) != value:
        do = f"convert it first: float({value!r})"
    return RowError(f"row {index}, column {column!r}: expected {expected}, got {shown}{kind}; {do}")


def unreadable(index: int, line: str, example: str) -> RowError:
    """The error of a line that no schema of this kind wrote."""
    return RowError(
        f"line {index}: expected a row such as {example!r}, got {line[:60]!r}; "
        "pass text that render() gave"
    )


def _same_columns(index: int, columns: tuple[str, ...], named: Row) -> None:
    for column in columns:
        if column not in named:
            raise RowError(
                f"row {index}: expected columns {', '.join(columns)}, and {column!r} is missing; "
                "fill it, or open another session for rows of this shape"
            )
    for column in named:
        if column not in columns:
            raise RowError(
                f"row {index}: expected columns {', '.join(columns)}, and {column!r} is new; "
                "drop it, or open another session for rows of this shape"
            )
