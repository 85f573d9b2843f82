"""What the embedded model is trained and scored on: streams, questions and true answers.

A `Sample` is one stream, rendered, with questions at moments in it; every answer is computed from
the rows before that moment. Families:

- ``last``: the printed value of a column of the last row, or of a symbol's last row;
- ``bar``: the last bar closed above (up) or below (down) its own open;
- ``trend``: the last close is above (up) or below (down) the close k bars earlier; k is 10 when the
  question does not say; ``trend_rows`` is the same of a column of plain rows;
- ``level``: the last close is above or below a price in the question.

Equal prices are never asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.streams.market import bars_of
from workbench.streams.render import Row, move_text, price_text, schema_for

DEFAULT_K = 10
COLUMNS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "m": "move"}
HINTS = (0, 2, 3, 5, 10, 20)  # bars back, see `moves`; 0 is the bar's own open

LAST = (
    "What was the last {x}?",
    "What is the last {x}?",
    "What was the latest {x}?",
    "What is the latest {x}?",
    "What is the most recent {x}?",
    "What is the {x} now?",
    "What is the {x} of the last bar?",
    "What was the {x} of the last row?",
    "Give the last {x}.",
    "Last {x}?",
    "last {x}",
    "{x}?",
)
LAST_VALUE = (
    *LAST,
    "What was the last value of {x}?",
    "What is the last value of {x}?",
    "What is {x} now?",
)
LAST_OF = (
    "What was the last {x} of {s}?",
    "What is the last {x} of {s}?",
    "What was the last {s} {x}?",
    "What is the latest {x} of {s}?",
    "What is the {s} {x} now?",
    "Last {x} of {s}?",
    "{s} {x}?",
)
BAR = (
    "Was the last bar up or down?",
    "Is the last bar up or down?",
    "Did the last bar close up or down?",
    "Did the last bar go up or down?",
    "Last bar up or down?",
)
TREND = (
    "Is the trend up or down over the last {k} bars?",
    "Is the close up or down over the last {k} bars?",
    "Is the price up or down over the last {k} bars?",
    "Up or down over the last {k} bars?",
    "Did the close go up or down over the last {k} bars?",
    "Are we up or down over the last {k} rows?",
    "Over the last {k} bars, is the trend up or down?",
    "Is the trend of the last {k} bars up or down?",
)
TREND_DEFAULT = (
    "Is the trend up or down?",
    "Is the trend up or down now?",
    "Is the market up or down?",
    "Is the price going up or down?",
    "Trend up or down?",
    "Up or down?",
)
TREND_ROWS = (
    "Is {x} up or down over the last {k} rows?",
    "Did {x} go up or down over the last {k} rows?",
    "Up or down for {x} over the last {k} rows?",
)
LEVEL = (
    "Is the last close above or below {x}?",
    "Is the close above or below {x}?",
    "Is the price above or below {x}?",
    "Was the last close above or below {x}?",
    "Above or below {x}?",
)
PROMPTS = (
    "You watch the tape.",
    "You read market data.",
    "You watch the market and answer questions about it.",
    "Market rows, one a line.",
    "Answer questions about these rows.",
    "You are a market watcher. Answer briefly.",
    "BTC, one-minute bars.",
)
SYMBOLS = (
    *("BTC", "ETH", "SOL", "AAPL", "MSFT", "GOOG", "AMZN", "NFLX", "NVDA", "TSLA", "SPY", "QQQ"),
    *("EURUSD", "GBPUSD", "DOGE", "XRP", "IBM", "META", "ES", "CL", "GLD", "BTC-USD", "ETHUSDT"),
)
NAMES = (
    *SYMBOLS,
    *("FB", "price", "bid", "ask", "mid", "size", "spread", "x", "y", "a", "b", "value", "yield"),
    *("temp", "load", "rate", "index", "last_price", "qty", "alpha", "beta", "gas", "oil", "power"),
)
MIX = (0.26, 0.2, 0.46, 0.08)
LEVEL_OFFSETS = (0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Asked:
    """One question, asked after ``rows`` rows, and its true answer."""

    family: str
    text: str
    answer: str
    rows: int


@dataclass(frozen=True)
class Sample:
    """One stream: its prompt, its schema's name, its rows and their lines, questions about them."""

    prompt: str | None
    schema: str
    rows: list[Row]
    lines: list[str]
    asked: list[Asked] = field(default_factory=list)

    @property
    def head(self) -> str:
        """What stands before the rows, after the beginning-of-text token."""
        return "" if self.prompt is None else self.prompt + "\n"


def stream(rng: np.random.Generator, rows: int, kind: str | None = None) -> Sample:
    """A stream of ``rows`` rows; ``kind`` is ``bars``, ``symbols`` or ``rows``, drawn when None."""
    kind = kind or str(rng.choice(["bars", "symbols", "rows"], p=[0.7, 0.12, 0.18]))
    make = {"bars": _bars, "symbols": _symbols, "rows": _plain}[kind]
    schema_name, made = make(rng, rows)
    schema = schema_for(schema_name)
    lines = [line + "\n" for line in schema.render(made).split("\n")[:-1]]
    prompt = None if rng.random() < 0.4 else PROMPTS[rng.integers(len(PROMPTS))]
    return Sample(prompt, schema_name, made, lines)


def ask(
    rng: np.random.Generator,
    sample: Sample,
    rows: int,
    family: str | None = None,
    max_k: int = 20,
    k: int | None = None,
    mix: Sequence[float] = MIX,
) -> Asked | None:
    """A question after ``rows`` rows of ``sample``; None where its truth is undefined or a tie.

    ``family`` None draws one that suits the stream, about single-symbol bars in the shares of
    ``mix`` (last, bar, trend, level); trends look back at most ``max_k`` bars.
    """
    seen = sample.rows[:rows]
    last = seen[-1]
    if family is None:
        family = _family(rng, sample, last, mix)
    if family == "last":
        return _last(rng, sample, seen)
    if family == "bar":
        return _moved("bar", _pick(rng, BAR), last["o"], last["c"], rows)
    if family == "level":
        size = 0.5 * abs(last["h"] - last["l"]) + 1e-4 * last["c"]
        away = size * rng.choice(LEVEL_OFFSETS) * rng.uniform(0.5, 1.5) * rng.choice([-1, 1])
        level = price_text(max(last["c"] + away, last["c"] * 0.01))
        side = _moved("level", _pick(rng, LEVEL).format(x=level), float(level), last["c"], rows)
        if side is None:
            return None
        return Asked("level", side.text, {"up": "above", "down": "below"}[side.answer], rows)
    column = "c" if family == "trend" else _pick(rng, _numbers(last))
    stated = k is not None or rng.random() < 0.7 or family == "trend_rows" or max_k < DEFAULT_K
    if k is None:
        common = [n for n in (3, 5, 10, 20) if n <= max_k]
        k = int(rng.choice(common) if rng.random() < 0.8 else rng.integers(2, max_k + 1))
        k = k if stated else DEFAULT_K
    if rows <= k:
        return None
    forms = TREND_ROWS if family == "trend_rows" else TREND if stated else TREND_DEFAULT
    text = _pick(rng, forms).format(x=column, k=k)
    return _moved(family, text, seen[-1 - k][column], last[column], rows)


def moves(sample: Sample, rows: int) -> list[float]:
    """After ``rows`` bars of one symbol: 1.0 up, 0.0 down, NaN not known, for each of `HINTS`.

    A training hint: a small head reads them off each row's end, so that the model works them out
    there, long before it learns which question wants them.
    """
    last = sample.rows[rows - 1]
    several = len({row.get("symbol") for row in sample.rows[:4]}) > 1
    if sample.schema == "rows" or several:
        return [float("nan")] * len(HINTS)
    made = []
    for k in HINTS:
        before = last["o"] if k == 0 else sample.rows[rows - 1 - k]["c"] if k < rows else last["c"]
        made.append(float("nan") if before == last["c"] else float(last["c"] > before))
    return made


def shown(schema: str, row: Row, column: str) -> str:
    """The text that the renderer prints for ``row[column]``."""
    if schema == "ohlcv":
        if column == "m":
            return move_text(price_text(row["o"]), price_text(row["c"]))
        return str(row["v"]) if column == "v" else price_text(row[column])
    value = row[column]
    return str(value) if isinstance(value, int | str) else price_text(value)


def _family(rng: np.random.Generator, sample: Sample, last: Row, mix: Sequence[float]) -> str:
    if sample.schema == "rows":
        return "trend_rows" if rng.random() < 0.08 else "last"
    if "symbol" in last and len({row["symbol"] for row in sample.rows[:4]}) > 1:
        return "bar" if rng.random() < 0.2 else "last"
    return str(rng.choice(["last", "bar", "trend", "level"], p=mix))


def _last(rng: np.random.Generator, sample: Sample, seen: list[Row]) -> Asked:
    last = seen[-1]
    if sample.schema == "rows":
        column = _pick(rng, list(last))
        text = _pick(rng, LAST_VALUE).format(x=column)
        return Asked("last", text, shown("rows", last, column), len(seen))
    weights = {"o": 0.1, "h": 0.1, "l": 0.1, "c": 0.3, "v": 0.1, "m": 0.3}
    fields = [column for column in weights if column in last or column == "m"]
    chance = np.array([weights[column] for column in fields])
    column = fields[rng.choice(len(fields), p=chance / chance.sum())]
    word = "price" if column == "c" and rng.random() < 0.2 else COLUMNS[column]
    if "symbol" not in last or rng.random() < 0.15:
        text = _pick(rng, LAST).format(x=word)
    else:
        recent = [row["symbol"] for row in seen[-8:]]
        symbol = _pick(rng, recent)
        last = next(row for row in reversed(seen) if row["symbol"] == symbol)
        text = _pick(rng, LAST_OF).format(x=word, s=symbol)
    return Asked("last", text, shown("ohlcv", last, column), len(seen))


def _moved(family: str, text: str, before: float, after: float, rows: int) -> Asked | None:
    # as printed: the model sees five digits, and so does the truth
    before, after = float(price_text(before)), float(price_text(after))
    if before == after:
        return None
    return Asked(family, text, "up" if after > before else "down", rows)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[rng.integers(len(choices))]


def _numbers(row: Row) -> list[str]:
    return [column for column, value in row.items() if not isinstance(value, str)]


def _scales(rng: np.random.Generator) -> dict[str, float]:
    start = 100.0 * rng.uniform(0.8, 1.25) if rng.random() < 0.25 else 10 ** rng.uniform(-0.3, 4.9)
    return {"start": float(start), "step": float(10 ** rng.uniform(-3.3, -1.7))}


def _bars(rng: np.random.Generator, rows: int) -> tuple[str, list[Row]]:
    columns = bars_of(rows, rng, **_scales(rng))
    names = [n for n in columns if n != "v" or rng.random() < 0.85]
    made = _table({n: columns[n] for n in names})
    if rng.random() < 0.4:
        symbol = _pick(rng, SYMBOLS)
        made = [{"symbol": symbol} | row for row in made]
    return "ohlcv", made


def _symbols(rng: np.random.Generator, rows: int) -> tuple[str, list[Row]]:
    count = int(rng.integers(2, 5))
    symbols = [SYMBOLS[i] for i in rng.choice(len(SYMBOLS), count, replace=False)]
    each = -(-rows // count)
    tables = [_table(bars_of(each, rng, **_scales(rng))) for _ in symbols]
    made = [
        {"symbol": symbol} | table[bar]
        for bar in range(each)
        for symbol, table in zip(symbols, tables, strict=True)
    ]
    return "ohlcv", made[:rows]


def _plain(rng: np.random.Generator, rows: int) -> tuple[str, list[Row]]:
    count = int(rng.integers(1, 7))
    names = [NAMES[i] for i in rng.choice(len(NAMES), count, replace=False)]
    if rng.random() < 0.3:  # names that no list holds
        letters = [chr(code) for code in rng.integers(97, 123, 6)]
        word = "".join(letters[: rng.integers(2, 7)])
        names[0] = word.upper() if rng.random() < 0.5 else word
    columns: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(names):
        values = bars_of(rows, rng, **(_scales(rng) if rng.random() < 0.5 else _near_one(rng)))
        columns[name] = values["v"] if rng.random() < 0.15 else values["c"]
    made = _table(columns)
    if rng.random() < 0.35:
        day = np.datetime64("2010-01-01") + int(rng.integers(0, 6000))
        step = int(rng.choice([1, 1, 7]))
        made = [{"date": str(day + step * i)} | row for i, row in enumerate(made)]
    return "rows", made


def _near_one(rng: np.random.Generator) -> dict[str, float]:
    return {"start": float(rng.uniform(0.6, 2.5)), "step": float(10 ** rng.uniform(-2.5, -1.4))}


def _table(columns: dict[str, np.ndarray]) -> list[Row]:
    names = list(columns)
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(columns[n].tolist() for n in names), strict=True)
    ]
