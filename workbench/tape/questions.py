"""What the embedded model is asked: questions about a stream, each with its truth.

Every answer is computed from the rows before the moment of asking, as printed. Families:

- ``last``: the printed value of a column of the last row, or of somebody's last row;
- ``absent``: the same of a column or a name that no row has: ``not in the data``; a sensor whose
  last reading is a fault has no value either;
- ``bar``: the last bar closed above (up) or below (down) its own open;
- ``trend``: a column is above or below what it was k rows before; k is 10 when the question about
  bars does not say; of somebody, k of that one's own rows;
- ``change``: that move of the close over k bars, in the words of the row's own move: ``up6``;
- ``extreme``: the largest or smallest value of a column in the last k rows;
- ``level``: the last value is above or below a number in the question; ``larger``: which of the
  two is; ``compare``: two numbers in the question, whatever the stream (`comparing`);
- ``ago``: the value of a column k rows before the last one;
- ``limits``: a sensor's last reading is inside its limits, or ok, low, high, fault;
- ``who``: whose row came last, whose last bar moved most (by its size class), who is fastest;
- ``count``: how many of the last k rows did something that their first word says;
- ``happened``: an event of a level or message is among the last k, or among all.

Equal values are never asked about, nor is a largest move that two share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from workbench.streams.render import move_text, price_text
from workbench.tape import wording
from workbench.tape.comparing import compare, larger, level
from workbench.tape.generators import CALM, ENTITY, LEVELS, NAMES, SYMBOLS, TROUBLE, Stream
from workbench.tape.moments import Asked, Moment, mark, shown, value_of
from workbench.tape.names import draw_name

DEFAULT_K = 10
YES_NO = ("yes", "no")
LIMITS = {"low": ("low limit", "lower limit"), "high": ("high limit", "upper limit")}
# Shares of the families, in streams of one and of several.
SHARES: dict[tuple[str, bool], dict[str, float]] = {
    ("ohlcv", False): {
        "last": 0.2, "bar": 0.07, "trend": 0.25, "change": 0.07, "extreme": 0.1, "level": 0.12,
        "count": 0.06, "absent": 0.03, "larger": 0.05, "ago": 0.03, "compare": 0.02,
    },
    ("ohlcv", True): {
        "last": 0.41, "bar": 0.09, "who": 0.14, "trend": 0.14, "level": 0.12, "absent": 0.05,
        "larger": 0.05,
    },
    ("iot", False): {
        "last": 0.22, "limits": 0.18, "trend": 0.14, "extreme": 0.09, "level": 0.12, "count": 0.13,
        "absent": 0.05, "larger": 0.04, "ago": 0.03,
    },
    ("iot", True): {
        "last": 0.33, "limits": 0.22, "who": 0.08, "trend": 0.08, "level": 0.1, "count": 0.09,
        "absent": 0.06, "larger": 0.04,
    },
    ("vitals", False): {
        "last": 0.36, "trend": 0.2, "extreme": 0.13, "level": 0.18, "absent": 0.05, "larger": 0.05,
        "ago": 0.03,
    },
    ("vitals", True): {
        "last": 0.5, "trend": 0.11, "level": 0.15, "who": 0.08, "extreme": 0.05, "absent": 0.06,
        "larger": 0.05,
    },
    ("event", False): {"last": 0.33, "count": 0.24, "happened": 0.38, "ago": 0.05},
    ("spatial", False): {
        "last": 0.45, "trend": 0.18, "extreme": 0.09, "level": 0.15, "absent": 0.05, "larger": 0.05,
        "ago": 0.03,
    },
    ("spatial", True): {
        "last": 0.46, "trend": 0.1, "who": 0.18, "level": 0.13, "absent": 0.08, "larger": 0.05,
    },
    ("rows", False): {
        "last": 0.41, "trend": 0.18, "extreme": 0.09, "level": 0.16, "absent": 0.06, "larger": 0.05,
        "ago": 0.03, "compare": 0.02,
    },
}  # fmt: skip


def ask(
    rng: np.random.Generator,
    stream: Stream,
    rows: int,
    family: str | None = None,
    *,
    max_k: int = 20,
    k: int | None = None,
    plain: bool = False,
) -> Asked | None:
    """A question after ``rows`` rows of ``stream``; None where its truth is undefined or a tie.

    ``family`` None draws one that suits the stream; questions look back ``k`` rows, or up to
    ``max_k``; ``plain`` ones compare in one direction only.
    """
    moment = Moment(rng, stream, rows, max_k, k, plain)
    if family is None:
        shares = _shares(stream)
        family = str(rng.choice(list(shares), p=list(shares.values())))
    return FAMILIES[family](moment)


def suits(stream: Stream) -> set[str]:
    """The families that ``stream`` can be asked about; `compare` needs no stream."""
    return {*_shares(stream), "compare"}


def _shares(stream: Stream) -> dict[str, float]:
    return SHARES.get((stream.schema, len(stream.members) > 1)) or SHARES[stream.schema, False]


def _last(at: Moment) -> Asked | None:
    name, rows = at.whose()
    any_row = at.several and at.rng.random() < 0.1
    row = at.stream.rows[at.rows - 1] if any_row else rows[-1]
    columns = [c for c in row if c not in ("symbol", "sensor", "patient", "id", "low", "high")]
    if at.schema == "ohlcv":
        columns += ["c", "c", "move"]
    if at.schema == "iot":
        columns = ["value"] * 6 + ["low", "high"]
    column = at.pick(columns)
    if any_row:
        name = ""
    if column == "move":
        answer = move_text(price_text(row["o"]), price_text(row["c"]))
    elif row[column] is None:
        return _absent_of(at, column, name)
    else:
        answer = shown(row, column, at.schema)
    x = at.word(column, name)
    if column in LIMITS:
        x = at.pick(LIMITS[column]) + (f" of {name}" if name else "")
    forms: tuple[str, ...] = wording.LAST
    if at.schema == "rows" and at.rng.random() < 0.5:
        forms = wording.LAST_VALUE
    elif not name and at.rng.random() < 0.15:
        forms = wording.LAST_ROW
    text = at.pick(forms).format(x=x, row=at.rows_word().removesuffix("s"))
    return at.asked("last", text, answer, column=column)


def _ago(at: Moment) -> Asked | None:
    name, rows = at.whose()
    k = at.look_back(len(rows))
    if not k:
        return None
    row = rows[-1 - k]
    columns = at.stream.numbers() if at.schema != "event" else ("level", "source", "message")
    column = "value" if at.schema == "iot" else at.pick(columns)
    if row[column] is None:
        return None
    text = at.pick(wording.AGO).format(x=at.word(column, name), k=k, rows=at.rows_word())
    return at.asked("ago", text, shown(row, column, at.schema), (), k, column)


def _absent(at: Moment) -> Asked | None:
    name, _ = at.whose()
    entity = ENTITY.get(at.schema)
    if entity and at.named and at.rng.random() < 0.6:
        others = [s for s in SYMBOLS if s not in at.members]
        if at.schema != "ohlcv":
            stem = name or next(iter(at.members))
            stem = stem.rstrip("0123456789") or stem
            others = [f"{stem}{n}" for n in range(12) if f"{stem}{n}" not in at.members]
        if at.stream.retold and at.rng.random() < 0.6:
            others = [n for n in (draw_name(at.rng) for _ in range(3)) if n not in at.members]
        column = at.column()
        return _absent_of(at, column, at.pick(others))
    known = set(at.stream.rows[0])
    words = {w for c in known for w in wording.COLUMNS[at.schema].get(c, (c,))}
    if at.schema == "iot":
        words |= {"low", "high"}
    spoken = ["temperature", "speed", "heart rate", "volume", "humidity", "pressure", "close"]
    parts = {part for w in words | known for part in w.split()}  # "pressure" is a blood pressure
    others = [w for w in (*spoken, *NAMES[20:]) if len(w) > 1 and parts.isdisjoint(w.split())]
    if at.stream.retold and at.rng.random() < 0.5:
        others = [draw_name(at.rng)]
    x = at.pick(others)
    text = at.pick(wording.LAST).format(x=f"{x} of {name}" if name else x)
    return at.asked("absent", text, wording.ABSENT)


def _absent_of(at: Moment, column: str, name: str) -> Asked:
    text = at.pick(wording.LAST).format(x=at.word(column, name))
    return at.asked("absent", text, wording.ABSENT, column=column)


def _bar(at: Moment) -> Asked | None:
    name, rows = at.whose()
    answer = mark("ohlcv", rows[-1])
    if answer == "=":
        return None
    forms = wording.BAR_OF if name else wording.BAR
    return at.asked("bar", at.pick(forms).format(s=name), answer, ("up", "down"))


def _trend(at: Moment) -> Asked | None:
    name, rows = at.whose()
    bars = at.schema == "ohlcv"
    column = "c" if bars and at.rng.random() < 0.65 else at.column()
    k = at.look_back(len(rows))
    plain = bars and column == "c" and not name and not at.several
    unsaid = plain and len(rows) > DEFAULT_K and at.max_k >= DEFAULT_K
    unsaid = unsaid and at.k in (None, DEFAULT_K) and at.rng.random() < 0.15
    k = DEFAULT_K if unsaid else k
    if not k:
        return None
    before, after = (value_of(rows[n], column, at.schema) for n in (-1 - k, -1))
    if before is None or after is None or before == after:
        return None
    a, b = wording.DIRECTIONS[at.rng.integers(len(wording.DIRECTIONS))]
    if unsaid:
        (a, b), text = ("up", "down"), at.pick(wording.TREND_DEFAULT)
    else:
        form = at.pick(wording.TREND_BARS if plain and at.rng.random() < 0.6 else wording.TREND)
        if "than" in form:
            a, b = "higher", "lower"
        text = form.format(x=at.word(column, name), a=a, b=b, k=k, rows=at.rows_word())
        text = text[0].upper() + text[1:]
    return at.asked("trend", text, a if after > before else b, (a, b), k, column)


def _change(at: Moment) -> Asked | None:
    _, rows = at.whose()
    k = at.look_back(len(rows))
    if not k:
        return None
    text = at.pick(wording.CHANGE).format(k=k, rows=at.rows_word())
    before, after = (price_text(rows[n]["c"]) for n in (-1 - k, -1))
    return at.asked("change", text, move_text(before, after), (), k, "c")


def _extreme(at: Moment) -> Asked | None:
    name, rows = at.whose()
    most = at.rng.random() < 0.5
    column = at.column()
    if at.schema == "ohlcv":
        column = at.pick(("h", "h", "c", "v") if most else ("l", "l", "c", "v"))
        column = column if column in rows[-1] else "c"
    k = min(at.look_back(len(rows) + 1), 10)
    if not k:
        return None
    values = [value_of(row, column, at.schema) for row in rows[-k:]]
    if any(value is None for value in values):
        return None
    best = (max if most else min)(range(k), key=lambda n: values[n])  # type: ignore[arg-type, return-value]
    forms = wording.LARGEST if most else wording.SMALLEST
    text = at.pick(forms).format(x=at.word(column, name), k=k, rows=at.rows_word())
    return at.asked("extreme", text, shown(rows[best - k], column, at.schema), (), k, column)


def _limits(at: Moment) -> Asked | None:
    name, rows = at.whose()
    row = rows[-1]
    if at.several and at.rng.random() < 0.15:
        name, row = "", at.stream.rows[at.rows - 1]
    found = mark("iot", row)
    if at.rng.random() < 0.35:
        form = at.pick(wording.STATUS if name else wording.STATUS_LAST)
        choices = ("ok", "low", "high", "fault")
        return at.asked("limits", form.format(s=name), found, choices)
    if found == "fault":
        return None
    form = at.pick(wording.INSIDE if name else wording.INSIDE_LAST)
    return at.asked("limits", form.format(s=name), "yes" if found == "ok" else "no", YES_NO)


def _who(at: Moment) -> Asked | None:
    entity = ENTITY[at.schema]
    names = tuple(at.members)
    if len(names) < 2:
        return None
    last = {name: at.stream.rows[own[-1]] for name, own in at.members.items()}
    if at.schema in ("ohlcv", "spatial") and at.rng.random() < 0.5:
        if at.schema == "ohlcv":
            size = {
                name: float(move_text(price_text(r["o"]), price_text(r["c"])).lstrip("updown="))
                for name, r in last.items()
            }
            forms, about = wording.WHO_MOVED, "move"
        else:
            size, forms, about = {n: r["speed"] for n, r in last.items()}, wording.WHO_FASTEST, "v"
        ranked = sorted(size, key=lambda name: size[name])
        if size[ranked[-1]] == size[ranked[-2]]:
            return None
        return at.asked("who", at.pick(forms), ranked[-1], names, 0, about)
    text = at.pick(wording.WHO_LAST).format(kind=at.pick(wording.KINDS[at.schema]))
    return at.asked("who", text, str(at.stream.rows[at.rows - 1][entity]), names, 0, "last")


def _count(at: Moment) -> Asked | None:
    k = min(at.look_back(at.rows + 1), 10)
    if not k:
        return None
    marks = [mark(at.schema, row) for row in at.stream.rows[at.rows - k : at.rows]]
    if at.schema == "ohlcv":
        wanted = at.pick(("up", "up", "down"))
        did, hits = at.pick(("closed {w}", "were {w}", "went {w}")).format(w=wanted), {wanted}
    elif at.schema == "iot":
        did, hits = (
            ("were outside their limits", {"low", "high"}),
            ("were out of limits", {"low", "high"}),
            ("were ok", {"ok"}),
            ("were inside their limits", {"ok"}),
            ("were high", {"high"}),
            ("were low", {"low"}),
        )[at.rng.integers(6)]
    else:
        wanted = at.pick(LEVELS[1:4])
        did, hits = at.pick(("were {w}", "had level {w}")).format(w=wanted), {wanted}
    text = at.pick(wording.COUNT).format(k=k, rows=at.rows_word(), did=did)
    return at.asked("count", text, str(sum(m in hits for m in marks)), (), k)


def _happened(at: Moment) -> Asked | None:
    ever = at.rng.random() < 0.25
    k = 0 if ever else at.look_back(at.rows + 1)
    if not (k or ever):
        return None
    window = at.stream.rows[: at.rows] if ever else at.stream.rows[at.rows - k : at.rows]
    by_level = ever or at.rng.random() < 0.6
    if by_level:
        there = {row["level"] for row in window}
        kinds: Sequence[str] = LEVELS if ever else LEVELS[2:]
    else:
        there, kinds = {row["message"] for row in window}, (*TROUBLE, *CALM)
        if at.stream.retold:
            kinds = sorted({row["message"] for row in at.stream.rows})
    wanted = at.rng.random() < 0.5
    # A message may go on with a number: 'cache hit 633' is a cache hit.
    those = [
        kind for kind in kinds
        if (kind in there if by_level else any(kind in text for text in there)) == wanted
    ]  # fmt: skip
    if not those:
        return None
    forms = wording.HAPPENED_LEVEL if by_level else wording.HAPPENED_TEXT
    form = at.pick(wording.HAPPENED_EVER if ever else forms)
    kind = at.pick(those)
    an = "an" if kind[0] in "AEIO" else "a"
    text = form.format(n=kind, an=an, k=k, rows=at.rows_word())
    return at.asked("happened", text, "yes" if wanted else "no", YES_NO, k)


FAMILIES: dict[str, Callable[[Moment], Asked | None]] = {
    "last": _last, "absent": _absent, "bar": _bar, "trend": _trend, "change": _change,
    "extreme": _extreme, "limits": _limits, "who": _who, "count": _count, "happened": _happened,
    "ago": _ago, "level": level, "larger": larger, "compare": compare,
}  # fmt: skip
