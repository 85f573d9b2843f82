"""One value as text: prices, counts, moves, words; and one word of a row back to its value."""

from __future__ import annotations

import json
import math
import re
from numbers import Integral
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_BARE = re.compile(r"[^\s\"=\\\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_LINE_BREAKS = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff]")


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
    if _BARE.fullmatch(value) and not NUMBER.fullmatch(value):
        return value
    return quoted(value)


def message_text(value: str) -> str:
    """A string as the rest of a line: as it is where that is unambiguous, else a JSON string."""
    plain = value.isprintable() and value.strip() == value and not value.startswith('"')
    return value if value and plain else quoted(value)


def quoted(value: str) -> str:
    """A JSON string without line breaks of any kind."""
    text = json.dumps(value, ensure_ascii=False)
    return _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_word(shown: str) -> str:
    """The string that `word_text` or `message_text` wrote."""
    return str(json.loads(shown)) if shown.startswith('"') else shown


def read_number(shown: str) -> Any:
    """The number that ``shown`` prints, whole ones as int; else the string that it is."""
    if not NUMBER.fullmatch(shown):
        return read_word(shown)
    return int(shown) if re.fullmatch(r"[+-]?\d+", shown) else float(shown)
