"""Rows to text, the same way in training and in use; ``parse`` takes the text back to rows.

``ohlcv``, one bar a line; 19 tokens of the embedded model's tokenizer with a symbol and a volume::

    up6 BTC o101.20 h102.00 l100.90 c101.70 v53120

The symbol stands there only where the rows have a symbol column, ``v`` only where they have a
volume. The first word is the bar's own move, open to close: up or down, then its size as a power of
two in basis points of the open (``0`` under 1 bp, ``1`` from 1 bp, ``2`` from 2, ``3`` from 4, ...,
``9`` from 256), reckoned in floating point from the printed numbers; ``=0`` for an unmoved bar. It
says nothing that the bar does not say, and lets a small model add up moves without subtracting
digits.

``iot``, a sensor's value and its limits; the first word is ``ok``, ``low`` or ``high``, or
``fault`` where the value is None or NaN, which reads ``?``::

    ok s3 v21.500 lo18.000 hi24.000

``vitals``, any of heart rate, systolic and diastolic pressure, SpO2 and temperature, after whose
they are where the rows say it (``@`` before a name that begins like a column)::

    bed4 hr72 sys120 dia80 ox98 temp36.800

``event``, the time of day, to the second, where rows have a time; the message is as it is, or a
JSON string where that would not be one plain line::

    ERROR db @09:41:05 : connection lost

``spatial``, where something is and how fast it goes::

    truck7 x12.500 y-3.2000 v4.1000

Columns of these have several names, in any case (``names`` of each class). A time column
(``time``, ``date``, ``datetime``, ``timestamp``, ``ts``, ``t``) is accepted everywhere; only
``event`` and ``rows`` show it: rows are read in the order in which they come.

``rows`` (also ``None``), any columns, in the order of the first row::

    date=2018-01-01 GOOG=1.0182 AAPL=1.0119

Prices and other floats show five significant digits and every digit before the point: ``101.20``,
``1.0182``, ``68123``, ``1234568``; below 0.0001 ``1.2346e-05``. Whole numbers given as ``int`` are
exact, except as prices, readings, limits and positions, where 101 reads ``101.00``. Strings and
column names with spaces, quotes, ``=``, line breaks, or that would read as a number are JSON
strings, so a row is always one line.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from workbench.errors import RowError
from workbench.streams.readings import Events, Moving, Sensors, Vitals
from workbench.streams.schema import (
    TIME_NAMES,
    Known,
    Row,
    Schema,
    is_missing,
    name_word,
    number,
    unreadable,
    wrong,
)
from workbench.streams.texts import (
    count_text,
    move_text,
    price_text,
    read_number,
    read_word,
    word_text,
)

__all__ = [
    "TIME_NAMES",
    "Row",
    "Schema",
    "count_text",
    "move_text",
    "price_text",
    "schema_for",
    "word_text",
]

_PAIR = re.compile(r'("(?:[^"\\]|\\.)*"|[^\s"=\\]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')
_BAR = re.compile(
    r'(?:up\d|down\d|=0) (?:(?P<symbol>"(?:[^"\\]|\\.)*"|[^\s"]+) )?'
    r"o(?P<o>\S+) h(?P<h>\S+) l(?P<l>\S+) c(?P<c>\S+)(?: v(?P<v>\S+))?"
)


class Bars(Known):
    """Open, high, low, close, with optional volume and symbol, under short or long names."""

    name = "ohlcv"
    names: ClassVar = {
        **dict.fromkeys(("symbol", "sym"), "symbol"),
        **{long: long[0] for long in ("open", "high", "low", "close", "volume")},
        **{short: short for short in "ohlcv"},
        "vol": "v",
    }
    needed = ("o", "h", "l", "c")
    order = ("symbol", "o", "h", "l", "c", "v")
    spoken = "open, high, low, close, volume, symbol, time"
    drops_time = True

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        words = []
        prices = {}
        for column in columns:
            value = named[column]
            if column == "symbol":
                words.append(name_word(index, column, value, "BTC"))
            else:
                checked = number(index, column, value)
                shown = count_text(checked) if column == "v" else price_text(checked)
                prices[column] = shown
                words.append(column + shown)
        return " ".join([move_text(prices["o"], prices["c"]), *words])

    def _row(self, index: int, line: str) -> Row:
        found = _BAR.fullmatch(line)
        if not found:
            raise unreadable(index, line, "up6 o101.20 h102.00 l100.90 c101.70 v53120")
        row: Row = {}
        for column, shown in found.groupdict().items():
            if shown is not None:
                row[column] = read_word(shown) if column == "symbol" else read_number(shown)
        return row


class Plain(Schema):
    """``column=value`` words, any columns; values are numbers, strings, dates or times."""

    name = "rows"

    def _named(self, index: int, row: Mapping[str, Any]) -> Row:
        for column in row:
            if not isinstance(column, str) or not column:
                raise RowError(
                    f"row {index}: expected column names to be text, got {column!r}; "
                    "rename the column"
                )
        return dict(row)

    def _order(self, index: int, named: Row) -> tuple[str, ...]:
        if not named:
            raise RowError(
                f"row {index}: expected at least one column, got none; push rows with values"
            )
        return tuple(named)

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        return " ".join(
            f"{word_text(column)}={_value_text(index, column, named[column])}" for column in columns
        )

    def _row(self, index: int, line: str) -> Row:
        row: Row = {}
        at = 0
        while at < len(line):
            found = _PAIR.match(line, at)
            if not found:
                break
            row[read_word(found[1])] = read_number(found[2])
            at = found.end()
        if at < len(line) or not row or line.endswith(" "):
            raise unreadable(index, line, "price=101.20 size=3")
        return row


_SCHEMAS: dict[str | None, type[Schema]] = {
    None: Plain,
    **{schema.name: schema for schema in (Bars, Sensors, Vitals, Events, Moving, Plain)},
}

SCHEMA_NAMES = tuple(name for name in _SCHEMAS if name is not None)


def schema_for(name: str | None) -> Schema:
    """A fresh schema: one that this module describes, or ``rows`` (None too) for any columns."""
    if not isinstance(name, str | None) or name not in _SCHEMAS:
        known = ", ".join(map(repr, SCHEMA_NAMES))
        raise RowError(f"expected schema {known} or None, got {name!r}; use one of these")
    return _SCHEMAS[name]()


def _value_text(index: int, column: str, value: Any) -> str:
    if isinstance(value, str):
        return word_text(value)
    if isinstance(value, dt.date) and is_missing(value):  # pandas' NaT
        raise wrong(index, column, "a value", value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return word_text(value.isoformat())
    return count_text(number(index, column, value))
