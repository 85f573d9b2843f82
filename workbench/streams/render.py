"""Rows to text, the same way in training and in use; ``parse`` takes the text back to rows.

``ohlcv``, one bar a line, about 33 tokens of the embedded model's tokenizer::

    up6 BTC o101.20 h102.00 l100.90 c101.70 v53120

The symbol stands there only where the rows have a symbol column, ``v`` only where they have a
volume. The first word is the bar's own move, open to close: up or down, then its size as a power of
two in basis points of the open (``0`` under 1 bp, ``1`` from 1 bp, ``2`` from 2, ``3`` from 4, ...,
``9`` from 256), reckoned in floating point from the printed numbers; ``=0`` for an unmoved bar. It
says nothing that the bar does not say, and lets a small model add up moves without subtracting
digits. A time column (``time``, ``date``, ``datetime``, ``timestamp``, ``ts``, ``t``) is accepted
and left out of the text: bars are read in the order in which they come.

``rows`` (also ``None``), any columns, in the order of the first row::

    date=2018-01-01 GOOG=1.0182 AAPL=1.0119

Prices and other floats show five significant digits and every digit before the point: ``101.20``,
``1.0182``, ``68123``, ``1234568``; below 0.0001 ``1.2346e-05``. Whole numbers given as ``int`` are
exact, except as prices, where 101 reads ``101.00``. Strings and column names with spaces, quotes,
``=``, line breaks, or that would read as a number are JSON strings, so a row is always one line.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from workbench.errors import RowError

Row = dict[str, Any]

TIME_NAMES = frozenset({"time", "date", "datetime", "timestamp", "ts", "t"})
LARGEST = 1e300  # beyond it, rounding to five digits could overflow
_OHLCV_NAMES = {
    "symbol": "symbol",
    "sym": "symbol",
    "o": "o",
    "open": "o",
    "h": "h",
    "high": "h",
    "l": "l",
    "low": "l",
    "c": "c",
    "close": "c",
    "v": "v",
    "vol": "v",
    "volume": "v",
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_BARE = re.compile(r"[^\s\"=\\\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_LINE_BREAKS = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff]")
_PAIR = re.compile(r'("(?:[^"\\]|\\.)*"|[^\s"=\\]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')
_BAR = re.compile(
    r'(?:up\d|down\d|=0) (?:(?P<symbol>"(?:[^"\\]|\\.)*"|[^\s"]+) )?'
    r"o(?P<o>\S+) h(?P<h>\S+) l(?P<l>\S+) c(?P<c>\S+)(?: v(?P<v>\S+))?"
)


def price_text(value: float) -> str:
    """``value`` with five significant digits and all digits before the point; zero is ``0``."""
    value = float(value)
    if value == 0:
        return "0"
    exponent = int(f"{value:.4e}".partition("e")[2])
    if not -5 < exponent < 16:
        return f"{value:.4e}"
    return f"{value:.{max(0, 4 - exponent)}f}"


def count_text(value: float) -> str:
    """A whole number exactly, any other as a price."""
    return str(int(value)) if isinstance(value, Integral) else price_text(value)


def move_text(opened: str, closed: str) -> str:
    """Sign and size class of a bar's move, from its printed open and close: ``up6``, ``=0``."""
    first, last = float(opened), float(closed)
    if first == last:
        return "=0"
    points = abs(last - first) / abs(first) * 10_000 if first else math.inf
    size = 9 if points >= 256 else 0 if points < 1 else math.frexp(points)[1]
    return f"{'up' if last > first else 'down'}{size}"


def word_text(value: str) -> str:
    """A string as one word of a line: bare where that is unambiguous, else a JSON string."""
    if _BARE.fullmatch(value) and not _NUMBER.fullmatch(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


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


class Bars(Schema):
    """Open, high, low, close, with optional volume and symbol, under short or long names."""

    name = "ohlcv"

    def _named(self, index: int, row: Mapping[str, Any]) -> Row:
        named: Row = {}
        for column, value in row.items():
            lowered = column.lower() if isinstance(column, str) else column
            if lowered in TIME_NAMES:
                continue
            short = _OHLCV_NAMES.get(lowered)
            if short is None:
                raise RowError(
                    f"row {index}: expected the columns of schema 'ohlcv' (open, high, low, close, "
                    f"volume, symbol, time), got {column!r}; drop it, or open the session with "
                    "schema='rows'"
                )
            if short in named:
                raise RowError(
                    f"row {index}: expected one column for {short!r}, got {column!r} as well; "
                    "keep one of them"
                )
            named[short] = value
        return named

    def _order(self, index: int, named: Row) -> tuple[str, ...]:
        missing = [column for column in "ohlc" if column not in named]
        if missing:
            raise RowError(
                f"row {index}: expected columns o, h, l and c, got {', '.join(named) or 'none'}; "
                f"add {', '.join(missing)}, or open the session with schema='rows'"
            )
        return tuple(column for column in ("symbol", *"ohlcv") if column in named)

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        words = []
        prices = {}
        for column in columns:
            value = named[column]
            if column == "symbol":
                if not isinstance(value, str) or not value:
                    raise _wrong(index, column, "a name such as 'BTC'", value)
                words.append(word_text(value))
            else:
                number = _number(index, column, value)
                shown = count_text(number) if column == "v" else price_text(number)
                prices[column] = shown
                words.append(column + shown)
        return " ".join([move_text(prices["o"], prices["c"]), *words])

    def _row(self, index: int, line: str) -> Row:
        found = _BAR.fullmatch(line)
        if not found:
            raise _unreadable(index, line, "up6 o101.20 h102.00 l100.90 c101.70 v53120")
        row: Row = {}
        for column, shown in found.groupdict().items():
            if shown is not None:
                row[column] = _word(shown) if column == "symbol" else _read_number(shown)
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
            row[_word(found[1])] = _read_number(found[2])
            at = found.end()
        if at < len(line) or not row or line.endswith(" "):
            raise _unreadable(index, line, "price=101.20 size=3")
        return row


_SCHEMAS: dict[str | None, type[Schema]] = {None: Plain, "rows": Plain, "ohlcv": Bars}


def schema_for(name: str | None) -> Schema:
    """A fresh schema: ``ohlcv``, or ``rows`` (the same as None) for rows of any columns."""
    if name not in _SCHEMAS:
        raise RowError(f"expected schema 'ohlcv', 'rows' or None, got {name!r}; use one of these")
    return _SCHEMAS[name]()


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


def _value_text(index: int, column: str, value: Any) -> str:
    if isinstance(value, str):
        return word_text(value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return word_text(value.isoformat())
    return count_text(_number(index, column, value))


def _number(index: int, column: str, value: Any) -> Any:
    """``value`` if it is a finite number; numpy's scalars register as such, its bool does not."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise _wrong(index, column, "a number", value)
    try:
        within = math.isfinite(value) and (
            isinstance(value, Integral) or abs(float(value)) < LARGEST
        )
    except (OverflowError, ValueError):  # a whole number beyond any float; a signalling NaN
        within = False
    if not within:
        raise _wrong(index, column, "a finite number within 1e300", value)
    return value


def _wrong(index: int, column: str, expected: str, value: Any) -> RowError:
    shown = f"{value!r:.60}"
    kind = "" if shown in {"None", "nan", "inf", "-inf"} else f" ({type(value).__name__})"
    return RowError(
        f"row {index}, column {column!r}: expected {expected}, got {shown}{kind}; "
        "fill or drop this row"
    )


def _unreadable(index: int, line: str, example: str) -> RowError:
    return RowError(
        f"line {index}: expected a row such as {example!r}, got {line[:60]!r}; "
        "pass text that render() gave"
    )


def _word(shown: str) -> str:
    return json.loads(shown) if shown.startswith('"') else shown


def _read_number(shown: str) -> Any:
    if not _NUMBER.fullmatch(shown):
        return _word(shown)
    return int(shown) if re.fullmatch(r"[+-]?\d+", shown) else float(shown)
