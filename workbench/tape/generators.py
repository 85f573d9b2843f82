"""The streams that the embedded model is trained and scored on, all made up, all from a seed.

Training draws `REGIMES`: walks that trend, jump, gap, sit still and go wild; sensors that drift out
of their limits, stick and fail; wards with episodes; logs with bursts of trouble; things that move
and stop. `UNSEEN` regimes are for the score alone: no training stream is made so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from workbench.streams.market import bars_of, five_digits
from workbench.streams.render import schema_for
from workbench.streams.schema import Row

T = TypeVar("T")
SCHEMAS = ("ohlcv", "iot", "vitals", "event", "spatial", "rows")
SHARES = (0.46, 0.16, 0.1, 0.1, 0.08, 0.1)
UNSEEN = ("crash", "saw", "stairs", "huge", "tiny")
BELOW_ZERO = 0.15  # share of streams of sensors, and of columns of plain rows
ENTITY = {"ohlcv": "symbol", "iot": "sensor", "vitals": "patient", "spatial": "id"}

SYMBOLS = (
    *("BTC", "ETH", "SOL", "AAPL", "MSFT", "GOOG", "AMZN", "NFLX", "NVDA", "TSLA", "SPY", "QQQ"),
    *("EURUSD", "GBPUSD", "DOGE", "XRP", "IBM", "META", "ES", "CL", "GLD", "ADA", "FB", "BNB"),
)
SENSORS = (
    *("pump", "boiler", "tank", "fan", "valve", "oven", "mixer", "press", "motor", "line"),
    *("s", "t", "p", "sensor", "probe", "node"),
)
PATIENTS = ("bed", "p", "patient", "room")
MOVERS = ("truck", "drone", "car", "bus", "ship", "robot", "taxi", "van", "a", "v")
SOURCES = ("db", "api", "web", "auth", "cache", "disk", "net", "queue", "cron", "mail", "search")
LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
CALM = (
    *("started", "stopped", "request served", "job done", "user logged in", "cache hit"),
    *("health check ok", "config loaded", "connection opened", "backup finished", "idle"),
)
TROUBLE = (
    *("timeout", "connection lost", "disk full", "retry failed", "bad request", "out of memory"),
    *("login failed", "queue full", "no route to host", "checksum mismatch", "lock held"),
)
NAMES = (
    *SYMBOLS[:20],
    *("price", "bid", "ask", "mid", "size", "spread", "x", "y", "a", "b", "value", "yield"),
    *("temp", "load", "rate", "index", "qty", "alpha", "beta", "gas", "oil", "power"),
)
PROMPTS = {
    "ohlcv": ("You watch the tape.", "You read market data.", "Market rows, one a line."),
    "iot": ("You watch the sensors.", "Plant readings.", "Readings of machines."),
    "vitals": ("You watch the ward.", "Bedside readings.", "You watch a patient."),
    "event": ("You read the logs.", "Service events.", "You watch the servers."),
    "spatial": ("You track vehicles.", "Positions and speeds.", "You watch the fleet."),
    "rows": ("Rows of data.", "You read a table as it grows.", "You watch the data."),
}
ANY_PROMPTS = (
    "Answer questions about these rows.",
    "You watch a stream and answer questions about it.",
    "Answer briefly.",
)


@dataclass(frozen=True)
class Stream:
    """One stream: its prompt, schema, rows as a person pushes them, and the lines they read as.

    ``members`` holds the row numbers of each symbol, sensor, patient or thing, in order; a stream
    of one, or without names, has one member (named "" where rows have no name). It is ``retold``
    if its names are off no list (`names`).
    """

    prompt: str | None
    schema: str
    rows: list[Row]
    lines: list[str]
    members: dict[str, list[int]] = field(default_factory=dict)
    retold: bool = False

    @property
    def head(self) -> str:
        """What stands before the rows, after the beginning-of-text token."""
        return "" if self.prompt is None else self.prompt + "\n"

    def numbers(self) -> list[str]:
        """The columns that hold numbers."""
        return [c for c, v in self.rows[0].items() if c != "time" and not isinstance(v, str)]


def make_stream(
    rng: np.random.Generator,
    rows: int,
    schema: str | None = None,
    *,
    several: bool | None = None,
    regime: str = "train",
) -> Stream:
    """A stream of ``rows`` rows; schema and whether it has several members are drawn when None.

    ``regime`` is ``train`` or one of `UNSEEN`.
    """
    schema = schema or str(rng.choice(SCHEMAS, p=SHARES))
    if several is None:
        several = bool(rng.random() < {"ohlcv": 0.25, "vitals": 0.4}.get(schema, 0.75))
    make = {
        "ohlcv": _bars, "iot": _sensors, "vitals": _vitals,
        "event": _events, "spatial": _moving, "rows": _plain,
    }[schema]  # fmt: skip
    return read_stream(schema, make(rng, rows, several, regime), _prompt(rng, schema))


def read_stream(schema: str, rows: list[Row], prompt: str | None = None) -> Stream:
    """The stream that ``rows`` are, its lines and its members."""
    lines = [line + "\n" for line in schema_for(schema).render(rows).split("\n")[:-1]]
    members: dict[str, list[int]] = {}
    entity = ENTITY.get(schema, "")
    for number, row in enumerate(rows):
        members.setdefault(str(row.get(entity, "")), []).append(number)
    return Stream(prompt, schema, rows, lines, members)


def walk(rng: np.random.Generator, rows: int, regime: str) -> np.ndarray:
    """Steps of a value, in units of its usual step: float64 [rows]."""
    if regime == "crash":  # long one-way runs with violent reversals
        sign = np.repeat(rng.choice([-1.0, 1.0], rows // 30 + 1), 30)[:rows]
        return sign * (1.5 + np.abs(rng.standard_t(2, rows)))
    if regime == "saw":
        return np.where(np.arange(rows) % rng.integers(4, 9) == 0, -5.0, 1.0) * (
            1 + 0.1 * rng.standard_normal(rows)
        )
    if regime == "stairs":  # still, then a step
        return np.where(rng.random(rows) < 0.12, 8 * rng.standard_normal(rows), 0.0)
    drift, size = np.empty(rows), np.empty(rows)
    at = 0
    while at < rows:
        length = int(rng.integers(8, 61))
        size[at : at + length] = rng.choice([0.25, 1.0, 1.0, 2.5])
        drift[at : at + length] = size[at] * rng.choice([-0.6, -0.25, 0.0, 0.25, 0.6])
        at += length
    jump = np.where(rng.random(rows) < 1 / 60, 6 * rng.standard_normal(rows), 0.0)
    return drift + size * (rng.standard_normal(rows) + jump)


def printed(values: np.ndarray) -> list[float]:
    """``values`` as the renderer prints them: five significant digits."""
    return [float(f"{value:.4e}") for value in values.tolist()]


def _prompt(rng: np.random.Generator, schema: str) -> str | None:
    draw = rng.random()
    if draw < 0.4:
        return None
    return pick(rng, ANY_PROMPTS if draw < 0.55 else PROMPTS[schema])


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of ``choices``."""
    return choices[int(rng.integers(len(choices)))]


def _turns(rng: np.random.Generator, rows: int, count: int, regular: bool) -> np.ndarray:
    """Whose turn each row is: round after round, or in any order. int64 [rows]."""
    return np.arange(rows) % count if regular else rng.integers(0, count, rows)


def _ids(rng: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    word = pick(rng, words)
    if rng.random() < 0.2:
        return [str(n) for n in rng.choice(list(words), count, replace=False)]
    joint = str(rng.choice(["", "_", "-"])) if len(word) > 1 else ""
    most = 10 if rng.random() < 0.7 else 100
    return [f"{word}{joint}{n}" for n in rng.choice(most, count, replace=False)]


def _scales(rng: np.random.Generator, regime: str) -> tuple[float, float]:
    start = 100.0 * rng.uniform(0.8, 1.25) if rng.random() < 0.25 else 10 ** rng.uniform(-0.3, 4.9)
    if regime in ("huge", "tiny"):
        start = 10 ** (rng.uniform(5.2, 6.5) if regime == "huge" else rng.uniform(-2.5, -0.5))
    return float(start), float(10 ** rng.uniform(-3.3, -1.7))


def _market(rng: np.random.Generator, rows: int, regime: str) -> dict[str, list]:
    start, step = _scales(rng, regime)
    if regime in ("train", "huge", "tiny"):
        made = bars_of(rows, rng, start=start, step=step)
        return {name: values.tolist() for name, values in made.items()}
    close = five_digits(start * np.exp(np.clip(step * np.cumsum(walk(rng, rows, regime)), -4, 4)))
    opened = np.concatenate([[five_digits(np.array([start]))[0]], close[:-1]])
    wick = step * np.abs(rng.standard_normal((2, rows)))
    if regime == "stairs":
        wick[:, close == opened] = 0.0
    high = five_digits(np.maximum(opened, close) * (1 + wick[0]))
    low = five_digits(np.minimum(opened, close) * (1 - wick[1]))
    volume = (10 ** rng.uniform(1.5, 5) * rng.lognormal(0, 1.2, rows)).astype(np.int64) + 1
    made = {"o": opened, "h": high, "l": low, "c": close, "v": volume}
    return {name: values.tolist() for name, values in made.items()}


def _bars(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    names = ("o", "h", "l", "c") if rng.random() < 0.15 else ("o", "h", "l", "c", "v")
    count = int(rng.integers(2, 5)) if several else 1
    each = -(-rows // count)
    tables = [_market(rng, each, regime) for _ in range(count)]
    symbols = [str(s) for s in rng.choice(SYMBOLS, count, replace=False)]
    if rng.random() < 0.15:
        symbols[0] = _word(rng).upper()
    named = several or rng.random() < 0.4
    return [
        ({"symbol": symbols[m]} if named else {}) | {n: tables[m][n][bar] for n in names}
        for bar in range(each)
        for m in range(count)
    ][:rows]


def _word(rng: np.random.Generator) -> str:
    return "".join(chr(code) for code in rng.integers(97, 123, rng.integers(2, 6)))


def _sensors(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    count = int(rng.integers(2, 7)) if several else 1
    ids = _ids(rng, SENSORS, count)
    turns = _turns(rng, rows, count, rng.random() < 0.5)
    values: list[list[float | None]] = []
    limits: list[list[float]] = []
    cold = regime == "train" and rng.random() < BELOW_ZERO
    for _ in range(count):
        middle, _ = _scales(rng, regime)
        middle = min(middle, 5000.0) if regime != "huge" else middle
        spread = middle * 10 ** rng.uniform(-2.0, -0.6)
        if cold:
            spread = float(10 ** rng.uniform(-0.5, 1.3))
            middle = spread * rng.uniform(-12, 2)
        pull = rng.uniform(0.05, 0.5)
        level, made = 0.0, []
        for step in walk(rng, rows, regime) * rng.uniform(0.3, 0.9):
            level += step - pull * level
            made.append(level)
        value = middle + spread * np.array(made)
        if not cold:
            value = np.maximum(value, middle * 0.01)
        stuck = int(rng.integers(0, rows))
        if rng.random() < 0.25:
            value[stuck : stuck + int(rng.integers(3, 15))] = value[stuck]
        shown: list[float | None] = list(printed(value))
        for at in np.flatnonzero(rng.random(rows) < (0.04 if rng.random() < 0.5 else 0.0)):
            shown[at] = None
        values.append(shown)
        wide = spread * rng.uniform(0.8, 2.5)
        limits.append(printed(np.array([middle - wide * rng.uniform(0.7, 1), middle + wide])))
    if rng.random() < 0.4:  # round limits, as people set them
        limits = [[float(f"{side:.1e}") for side in pair] for pair in limits]
    return [
        {"sensor": ids[m], "value": values[m][at], "low": limits[m][0], "high": limits[m][1]}
        for at, m in enumerate(turns)
    ]


def _vitals(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    count = int(rng.integers(2, 5)) if several else 1
    ids = _ids(rng, PATIENTS, count)
    turns = _turns(rng, rows, count, True)
    usual = {"hr": (75, 4), "sys": (122, 4), "dia": (78, 3), "spo2": (96, 0.8), "temp": (36.8, 0.1)}
    kept = [name for name in usual if rng.random() < 0.85] or ["hr"]
    wild = 3.0 if regime in UNSEEN else 1.0
    each = -(-rows // count) + rows % count + 1
    tables = []
    for _ in range(count):
        table: dict[str, list] = {}
        for name in kept:
            middle, size = usual[name]
            middle += 3 * size * rng.standard_normal()
            made = middle + size * wild * 0.5 * np.cumsum(walk(rng, each, regime)) / 2
            made = middle + (made - middle) * 0.8 + size * 0.3 * rng.standard_normal(each)
            if name == "temp":
                table[name] = np.round(np.clip(made, 33, 43), 1).tolist()
            else:
                low, high = {"spo2": (60, 100), "hr": (25, 240)}.get(name, (30, 260))
                table[name] = np.clip(np.round(made), low, high).astype(int).tolist()
        tables.append(table)
    named = several or rng.random() < 0.5
    return [
        ({"patient": ids[m]} if named else {}) | {n: tables[m][n][at // count] for n in kept}
        for at, m in enumerate(turns)
    ]


def _events(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    sources = [str(s) for s in rng.choice(SOURCES, int(rng.integers(2, 7)), replace=False)]
    at = dt.datetime(2026, 1, 5) + dt.timedelta(seconds=int(rng.integers(0, 60_000)))
    timed = several
    calm = rng.dirichlet([1, 6, 1.5, 0.8, 0.2])
    wild = rng.dirichlet([0.5, 1, 2, 4, 0.6]) if regime not in UNSEEN else [0, 0, 0.1, 0.6, 0.3]
    made: list[Row] = []
    trouble = 0
    for _ in range(rows):
        trouble = trouble - 1 if trouble else int(rng.integers(3, 15)) * (rng.random() < 0.04)
        level = str(rng.choice(LEVELS, p=wild if trouble else calm))
        at += dt.timedelta(seconds=int(rng.exponential(5 if trouble else 40)) + 1)
        message = pick(rng, TROUBLE if level in LEVELS[2:] else CALM)
        if rng.random() < 0.15:
            message += f" {rng.integers(1, 1000)}"
        row: Row = {"level": level, "source": pick(rng, sources), "message": message}
        made.append({"time": at} | row if timed else row)
    return made


def _moving(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    count = int(rng.integers(2, 6)) if several else 1
    ids = _ids(rng, MOVERS, count)
    turns = _turns(rng, rows, count, rng.random() < 0.7)
    scale = {"huge": 5000.0, "tiny": 0.05}.get(regime, float(10 ** rng.uniform(-0.5, 1.5)))
    where = scale * 30 * rng.standard_normal((count, 2))
    heading = rng.uniform(0, 2 * np.pi, count)
    speed = scale * rng.uniform(0.3, 2.0, count)
    still = np.zeros(count, dtype=int)
    paces = np.exp(0.08 * np.clip(np.cumsum(walk(rng, rows, regime)), -15, 15))
    made: list[Row] = []
    for at, m in enumerate(turns):
        still[m] = still[m] - 1 if still[m] else int(rng.integers(2, 9)) * (rng.random() < 0.04)
        heading[m] += 0.3 * rng.standard_normal()
        now = 0.0 if still[m] else speed[m] * paces[at]
        where[m] += now * np.array([np.cos(heading[m]), np.sin(heading[m])])
        x, y, v = printed(np.array([*where[m], now]))
        made.append({"id": ids[m], "x": x, "y": y, "speed": v})
    return made


def _plain(rng: np.random.Generator, rows: int, several: bool, regime: str) -> list[Row]:
    count = int(rng.integers(2, 7)) if several else 1
    names = [str(n) for n in rng.choice(NAMES, count, replace=False)]
    if rng.random() < 0.3:  # names that no list holds
        word = _word(rng)
        names[0] = word.upper() if rng.random() < 0.5 else word
    columns: dict[str, list] = {}
    for name in dict.fromkeys(names):
        if rng.random() < 0.12:
            columns[name] = rng.integers(0, 10 ** int(rng.integers(1, 6)), rows).tolist()
            continue
        start, step = _scales(rng, regime)
        if rng.random() < 0.5 and regime == "train":
            start = float(rng.uniform(0.6, 2.5))
            step = float(10 ** rng.uniform(-2.5, -1.4))
        moves = np.clip(step * np.cumsum(walk(rng, rows, regime)), -4, 4)
        values = start * np.exp(moves)
        if regime == "train" and rng.random() < BELOW_ZERO:  # a balance, a longitude
            values = start * (moves + rng.uniform(-1.5, 0.5))
        columns[name] = printed(values)
    made = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if rng.random() < 0.35:
        day = np.datetime64("2010-01-01") + int(rng.integers(0, 6000))
        step_days = int(rng.choice([1, 1, 7]))
        made = [{"date": str(day + step_days * i)} | row for i, row in enumerate(made)]
    return made
